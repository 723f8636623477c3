"""The little HTTP/1.1 that a guard needs, on a plain socket.

Not `http.client`, since its buffered files hold a lock while they read: a process that forks meanwhile could not let go
of the connection without waiting for a thread that it does not have. Everything that comes in is bounded.
Redirects are not followed: a key must not travel to where nobody sent it.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import urllib.request
from typing import Dict, Iterator, Optional, Tuple
from urllib.parse import unquote, urlsplit

#: Bytes of an answer's head; ours have a few hundred.
_HEAD = 64 << 10
#: Bytes of a body that is read whole: problem documents and the answers to events.
_BODY = 1 << 20


class HttpError(Exception):
    """The other side does not speak HTTP as it should, or is gone."""


class Url:
    """Where the host is."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not a URL of a host, expected one like http://127.0.0.1:8000")
        if parts.username is not None or parts.password is not None:
            raise ValueError("the URL holds a user or a password; give the key as api_key")
        if parts.query or parts.fragment:
            raise ValueError("the URL of a host has no query")
        self.is_tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.is_tls else 80)
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = name if self.port == (443 if self.is_tls else 80) else f"{name}:{self.port}"
        self.base = parts.path.rstrip("/")
        self.origin = f"{parts.scheme}://{self.authority}"

    def proxy(self) -> Optional[str]:
        """The proxy of the environment; none for loopback."""
        if self.host == "localhost" or self.host.startswith("127.") or self.host == "::1":
            return None
        if urllib.request.proxy_bypass(self.authority):
            return None
        return urllib.request.getproxies().get("https" if self.is_tls else "http")


class Response:
    """Status, headers, and a body that is read once."""

    def __init__(self, connection: "Connection", status: int, headers: Dict[str, str]) -> None:
        self._connection, self.status, self.headers = connection, status, headers

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Ends with the body; raises when it breaks off."""
        connection = self._connection
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while True:
                size = _chunk_size(connection.line())
                if size == 0:
                    while connection.line():
                        pass
                    return
                yield from connection.exactly(size)
                if connection.line():
                    raise HttpError("a chunk is longer than it said")
        elif "content-length" in self.headers:
            length = self.headers["content-length"]
            if not length.isascii() or not length.isdigit():
                raise HttpError("a length that is no number")
            yield from connection.exactly(int(length))
        elif self.status not in (204, 304):
            connection.is_reusable = False
            yield from connection.rest()

    def body(self) -> bytes:
        """The whole body."""
        whole = bytearray()
        for piece in self.pieces():
            whole += piece
            if len(whole) > _BODY:
                raise HttpError("an answer that is too long")
        return bytes(whole)


class Connection:
    """One connection. `silence` is the time without any byte after which it counts as broken."""

    def __init__(self, url: Url, context: Optional[ssl.SSLContext], connect: float, silence: float) -> None:
        self.is_reusable = True
        self._buffer = b""
        self._prefix, self._proxy_key = "", ""
        self._socket = self._open(url, context, connect)
        self._socket.settimeout(silence)
        self._url = url

    def _open(self, url: Url, context: Optional[ssl.SSLContext], seconds: float) -> socket.socket:
        proxy = url.proxy()
        if proxy is None:
            plain = socket.create_connection((url.host, url.port), seconds)
        else:
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            if not parts.hostname or parts.scheme != "http":
                raise HttpError("only proxies with http:// are spoken to")
            plain = socket.create_connection((parts.hostname, parts.port or 80), seconds)
            if parts.username is not None:
                pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
                self._proxy_key = f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not url.is_tls:
                self._prefix = url.origin if proxy else ""
                return plain
            if proxy:
                self._socket = plain
                target = f"{url.authority}:443" if url.port == 443 else url.authority
                plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{self._proxy_key}\r\n".encode())
                status = self._head()[0]
                if status != 200:
                    raise HttpError(f"the proxy answers {status}")
                self._proxy_key = ""
            context = context or ssl.create_default_context()
            return context.wrap_socket(plain, server_hostname=url.host)
        except BaseException:
            plain.close()
            raise

    def request(self, method: str, path: str, headers: Dict[str, str], body: Optional[bytes] = None) -> Response:
        """Sends a request and reads the head of the answer."""
        lines = [f"{method} {self._prefix}{self._url.base}{path} HTTP/1.1", f"Host: {self._url.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n" + (self._proxy_key if self._prefix else "") + "\r\n"
        self._socket.sendall(head.encode("latin-1") + (body or b""))
        status, answer = self._head()
        while 100 <= status < 200:
            status, answer = self._head()
        self.is_reusable = answer.get("connection", "").lower() != "close"
        return Response(self, status, answer)

    def _head(self) -> Tuple[int, Dict[str, str]]:
        size = 0
        first = self.line()
        words = first.split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3 or not words[1].isdigit():
            raise HttpError("the answer is not HTTP")
        headers: Dict[str, str] = {}
        while True:
            line = self.line()
            size += len(line)
            if not line:
                return int(words[1]), headers
            if size > _HEAD:
                raise HttpError("the head of the answer is too long")
            name, _, value = line.partition(b":")
            headers[name.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()

    def line(self) -> bytes:
        """One line, without its end."""
        while True:
            at = self._buffer.find(b"\n")
            if at >= 0:
                line, self._buffer = self._buffer[:at], self._buffer[at + 1 :]
                return line[:-1] if line.endswith(b"\r") else line
            if len(self._buffer) > _HEAD:
                raise HttpError("a line of the answer is too long")
            self._buffer += self._receive()

    def exactly(self, count: int) -> Iterator[bytes]:
        """So many bytes, as they come."""
        while count:
            piece = self._buffer or self._receive()
            taken, self._buffer = piece[:count], piece[count:]
            count -= len(taken)
            yield taken

    def rest(self) -> Iterator[bytes]:
        """Everything until the other side closes."""
        while True:
            try:
                piece = self._buffer or self._receive()
            except HttpError:
                return
            self._buffer = b""
            yield piece

    def _receive(self) -> bytes:
        piece = self._socket.recv(64 << 10)
        if not piece:
            raise HttpError("the host closed the connection")
        return piece

    def close(self) -> None:
        """Ends the connection, also under a thread that reads from it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def abandon(self) -> None:
        """Lets go of a connection that belongs to the parent process, without a byte to the other side."""
        try:
            number = self._socket.detach()
            if number >= 0:
                os.close(number)
        except OSError:
            pass


def _chunk_size(line: bytes) -> int:
    digits = line.split(b";", 1)[0].strip()
    if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
        raise HttpError("a chunk without a length")
    return int(digits, 16)


def retry_after(headers: Dict[str, str], at_most: float) -> float:
    """Seconds that the host asks us to wait."""
    text = headers.get("retry-after", "")
    return min(float(text), at_most) if text.isascii() and text.isdigit() and len(text) < 9 else 0.0
