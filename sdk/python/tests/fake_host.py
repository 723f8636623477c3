"""A host that speaks the guard's protocol, small and faithful, and that can misbehave on demand.

Streams are chunked as the real host's are: snapshot, then changes, and a beat each `beat_every` seconds.
Its clock can be set. A guard of its tests is patient: a thread that is late is no host that is away.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
import time
import unittest
from typing import Any, Callable, Dict, List, Optional, Tuple
from unittest import mock

from phronis_guard import Guard

#: Seconds that only a test which hangs waits for.
PATIENCE = 60.0


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Waits until something is so; gives it."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to be")
        time.sleep(0.002)


class HostCase(unittest.TestCase):
    """A host for each test, and guards that it may keep waiting."""

    def setUp(self) -> None:
        logging.getLogger("phronis_guard").setLevel(logging.CRITICAL)
        for name in ("feed.SILENCE", "feed._CONNECT", "events._TIMEOUT"):
            patched = mock.patch(f"phronis_guard.{name}", PATIENCE)
            patched.start()
            self.addCleanup(patched.stop)
        self.host = FakeHost()
        self.addCleanup(self.host.stop)

    def guard(self, **options: Any) -> Guard:
        options.setdefault("patience", PATIENCE)
        guard = Guard(options.pop("url", self.host.url), **options)
        self.addCleanup(guard.close, 0)
        return guard


class FakeHost:
    """Everything public may be changed while it runs."""

    def __init__(self, beat_every: float = 0.02, key: Optional[str] = None) -> None:
        self.lock = threading.RLock()
        self.beat_every, self.key = beat_every, key
        self.epoch, self.version = "e1", 0
        self.halts: Dict[Optional[str], Dict[str, Any]] = {}
        self.beats = True
        #: Seconds since 1970.
        self.clock: Callable[[], float] = time.time
        #: Status and headers with which the stream is refused.
        self.refuse: Optional[Tuple[int, Dict[str, str]]] = None
        #: Sent as the stream's body in place of the protocol.
        self.raw: Optional[List[bytes]] = None
        #: The answers to the next posts; then 202.
        self.post_answers: List[int] = []
        #: Posts wait until this is set.
        self.posts_may_end = threading.Event()
        self.posts_may_end.set()
        self.events: List[Dict[str, Any]] = []
        self.requests: List[Tuple[str, str, Dict[str, str]]] = []
        self.streams: List["_Handler"] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts, or starts again on the same port."""
        host = self

        class Handler(_Handler):
            owner = host

        self.server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        self.stopping = threading.Event()
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        threading.Thread(target=self._beat, args=(self.stopping,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.cut()

    def cut(self) -> None:
        """Breaks all connections."""
        for connection in list(self.server.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def halt(self, agent: Optional[str], reason: str = "too fast", **more: Any) -> None:
        with self.lock:
            entry = {"agent": agent, "state": "halted", "reason": reason, "actor": "ops", "at": self.now(), "expires_at": None}
            self.halts[agent] = {**entry, **more, "version": self.version + 1}
            self._change({**entry, **more})

    def reset(self, agent: Optional[str]) -> None:
        with self.lock:
            self.halts.pop(agent, None)
            self._change({"agent": agent, "state": "running", "reason": "well again", "actor": "ops", "at": self.now(), "expires_at": None})

    def skip(self) -> None:
        """A change that nobody is told of."""
        with self.lock:
            self.version += 1

    def snapshot(self) -> Dict[str, Any]:
        with self.lock:
            return {"epoch": self.epoch, "version": self.version, "at": self.now(), "halted": list(self.halts.values())}

    def tell(self, name: str, data: Dict[str, Any]) -> None:
        with self.lock:
            for stream in list(self.streams):
                stream.tell(name, data)

    def calls(self) -> List[Dict[str, Any]]:
        with self.lock:
            return list(self.events)

    def now(self, offset: float = 0.0) -> str:
        """Its time, as it writes it."""
        at = self.clock() + offset
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"

    def _change(self, entry: Dict[str, Any]) -> None:
        self.version += 1
        self.tell("change", {"epoch": self.epoch, "version": self.version, **entry})

    def _beat(self, stopping: threading.Event) -> None:
        while not stopping.wait(self.beat_every):
            if self.beats:
                with self.lock:
                    self.tell("beat", {"epoch": self.epoch, "version": self.version, "at": self.now()})


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any) -> None:
        self.connections: List[socket.socket] = []
        super().__init__(*args)

    def process_request(self, request: Any, address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, address)

    def handle_error(self, *_: Any) -> None:
        pass


class _Handler(socketserver.StreamRequestHandler):
    owner: FakeHost

    def handle(self) -> None:
        while True:
            first = self.rfile.readline()
            if not first:
                return
            method, path, _ = first.decode().split(" ", 2)
            headers: Dict[str, str] = {}
            for line in iter(self.rfile.readline, b"\r\n"):
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            self.owner.requests.append((method, path, headers))
            body = self.rfile.read(int(headers.get("content-length", 0)))
            if method == "POST":
                self.post(headers, body)
            else:
                return self.follow(headers)

    def answer(self, status: int, headers: Dict[str, str], body: bytes = b"{}") -> None:
        head = {"content-length": str(len(body)), "content-type": "application/json", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.wfile.write(f"HTTP/1.1 {status} Word\r\n{lines}\r\n".encode() + body)

    def post(self, headers: Dict[str, str], body: bytes) -> None:
        self.owner.posts_may_end.wait()
        with self.owner.lock:
            status = self.owner.post_answers.pop(0) if self.owner.post_answers else 202
            if self.owner.key is not None and headers.get("x-api-key") != self.owner.key:
                status = 401
            if status == 202:
                self.owner.events += [json.loads(line) for line in body.splitlines()]
        self.answer(status, {})

    def follow(self, headers: Dict[str, str]) -> None:
        owner = self.owner
        if owner.refuse is not None:
            return self.answer(*owner.refuse)
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        if owner.raw is not None:
            for piece in owner.raw:
                self.chunk(piece)
        else:
            with owner.lock:
                self.tell("snapshot", owner.snapshot())
                owner.streams.append(self)
        # Until the other side, or `cut`, closes.
        self.rfile.read(1)
        with owner.lock:
            if self in owner.streams:
                owner.streams.remove(self)

    def tell(self, name: str, data: Dict[str, Any]) -> None:
        self.chunk(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def chunk(self, piece: bytes) -> None:
        try:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        except OSError:
            pass
