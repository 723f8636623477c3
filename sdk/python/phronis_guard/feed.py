"""Listens to the host: one daemon thread a process and guard, on one long-lived stream.

The stream begins with all halts, then tells each change and beats every second.
A gap in the versions, another incarnation of the host, or three seconds of silence: it connects anew and gets all halts again.
Nothing that comes in can end the thread; what fails is said once and tried again.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from typing import Any, Callable, Dict, Optional

from .cache import SILENCE, Cache, Halt, ProtocolError
from .http import Connection, HttpError, Url, retry_after
from .sse import Parser

log = logging.getLogger("phronis_guard")

#: Seconds to reach the host.
_CONNECT = 3.0
#: Seconds without a whole event while the snapshot comes in: 50 000 halts over a slow line take longer than a beat.
_SNAPSHOT = 30.0
#: The longest pause between two attempts: a kill switch that is away for longer should not stay away for the pause.
_MOST = 3.0
#: The pause after the host refused us: a person has to do something first.
_REFUSED = 10.0


class Refused(Exception):
    """The host answers, but not with the stream."""

    def __init__(self, message: str, pause: float) -> None:
        super().__init__(message)
        self.pause = pause


class Feed:
    """Keeps a `Cache` true. `on_halts` is called with the halts that begin; it must not wait."""

    def __init__(
        self,
        url: Url,
        path: str,
        headers: Dict[str, str],
        context: Optional[ssl.SSLContext],
        cache: Cache,
        on_halts: Callable[[Dict[str, Halt]], None],
    ) -> None:
        self._url, self._path, self._context = url, path, context
        self._headers = {**headers, "Accept": "text/event-stream", "Cache-Control": "no-cache"}
        self._cache, self._on_halts = cache, on_halts
        self.is_connected = False
        self._said: Optional[str] = None
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._connection: Optional[Connection] = None
        self._failures = 0

    @property
    def is_settled(self) -> bool:
        """Whether this process has tried to reach the host at least once, with whatever result."""
        return self._settled.is_set()

    def start(self) -> None:
        """Starts the thread, if it does not run."""
        with self._lock:
            if self._thread is None and not self._stopping.is_set():
                self._thread = threading.Thread(target=self._run, name="phronis-guard", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> None:
        """Waits for the first attempt of this process."""
        self.start()
        self._settled.wait(seconds)

    def stop(self, seconds: float) -> None:
        """Ends the thread and its connection."""
        with self._lock:
            self._stopping.set()
            connection, thread = self._connection, self._thread
        if connection is not None:
            connection.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def after_fork(self) -> None:
        """In the child: the thread is gone and the connection is the parent's. The next check starts anew."""
        if self._connection is not None:
            self._connection.abandon()
        was_stopped = self._stopping.is_set()
        self._forget()
        self.is_connected = False
        if was_stopped:
            self._stopping.set()
        self._cache.forget_age()

    def _run(self) -> None:
        while not self._stopping.is_set():
            pause: Optional[float] = None
            try:
                self._follow()
            except Refused as refused:
                self._say(str(refused))
                pause = refused.pause
            except ProtocolError as error:
                # Gaps happen; only those that come again and again are worth a line.
                self._say(f"{self._url.origin}: {error}", is_quiet=self._failures == 0)
            except (OSError, HttpError) as error:
                self._say(f"{self._url.origin} is not reachable: {error or type(error).__name__}")
            except Exception as error:
                log.exception("the guard's stream failed in an unexpected way, it is tried again")
                self._cache.trouble = f"unexpected: {error!r}"
            finally:
                self.is_connected = False
                self._settled.set()
            if pause is None:
                pause = random.uniform(0, min(_MOST, 0.05 * 2 ** min(self._failures, 10)))
            self._failures += 1
            self._stopping.wait(pause)

    def _say(self, trouble: str, is_quiet: bool = False) -> None:
        if self._stopping.is_set():
            return
        self._cache.trouble = trouble
        if trouble != self._said and not is_quiet:
            self._said = trouble
            log.warning("%s (%s holds until it is back)", trouble, self._cache.policy)

    def _follow(self) -> None:
        connection = Connection(self._url, self._context, _CONNECT, SILENCE)
        with self._lock:
            if self._stopping.is_set():
                connection.close()
                return
            self._connection = connection
        try:
            response = connection.request("GET", self._path, self._headers)
            if response.status != 200:
                raise _refused(self._url, response.status, response.headers)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise Refused(f"{self._url.origin} does not answer with the guard's stream", _REFUSED)
            parser, heard = Parser(), time.monotonic()
            for piece in response.pieces():
                for name, data in parser.feed(piece):
                    if self._take(name, data):
                        heard = time.monotonic()
                # Bytes alone are no sign of life.
                if time.monotonic() - heard > (SILENCE if self.is_connected else _SNAPSHOT):
                    raise HttpError(f"no beat for {SILENCE:.0f} s")
            raise HttpError("the host ended the stream")
        finally:
            with self._lock:
                self._connection = None
            connection.close()

    def _take(self, name: str, data: Any) -> bool:
        """Takes one event in. Gives whether it says that the host is well."""
        if not self.is_connected and name in ("change", "beat"):
            raise ProtocolError("the stream does not begin with a snapshot")
        if name == "snapshot":
            fresh = self._cache.snapshot(data)
            self.is_connected = True
            self._settled.set()
        elif name == "change":
            fresh = self._cache.change(data)
        elif name == "beat":
            self._cache.beat(data)
            fresh = {}
            self._failures = 0
            if self._said is not None:
                self._said = None
                log.info("%s is heard again", self._url.origin)
        else:
            return False
        if fresh:
            self._on_halts(fresh)
        return True


def _refused(url: Url, status: int, headers: Dict[str, str]) -> Refused:
    if status in (401, 403):
        return Refused(f"{url.origin} refuses the key ({status}): check api_key and its tenant", _REFUSED)
    if status == 404:
        return Refused(f"{url.origin} has no agents to guard (404): check the URL, the tenant, and the host's version", _REFUSED)
    if 300 <= status < 400:
        to = headers.get("location", "nowhere")[:200]
        return Refused(f"{url.origin} redirects ({status}) to {to!r}; redirects are not followed, give the guard the right URL", _REFUSED)
    pause = retry_after(headers, _MOST) or random.uniform(0.5, _MOST)
    return Refused(f"{url.origin} answers {status}", pause)
