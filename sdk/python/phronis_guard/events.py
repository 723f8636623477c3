"""Tells the host of each call: TOOL_CALL events on the agents stream, in batches, from a thread of its own.

A tool never waits for this: it puts one tuple into a bounded queue.
When the queue is full the oldest event goes, since the newest tell of an agent that runs away, and the loss is counted.
An event may arrive twice when an answer was lost; its `call_id` tells.
"""

from __future__ import annotations

import json
import logging
import random
import ssl
import threading
import time
import uuid
from collections import OrderedDict, deque
from datetime import datetime, timezone
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Tuple

from .http import Connection, HttpError, Url, retry_after

log = logging.getLogger("phronis_guard")

#: Events of one request: at most 0.5 MB, far below the host's limit for a body.
_BATCH = 500
#: Seconds that the first event of a batch waits for others: a host syncs its disk once a request.
_LINGER = 0.01
_TIMEOUT = 5.0
_MOST = 5.0
_REFUSED = 10.0
#: Agents whose calls are counted; beyond, those that were quiet the longest are forgotten.
_AGENTS = 10_000
#: Characters of a tool's name.
_NAME = 256


class CallEvent(NamedTuple):
    """One call that ended."""

    agent: str
    tool: str
    #: Seconds since 1970 when it ended.
    at: float
    latency_ms: float
    calls_in_minute: int
    outcome: str
    tokens: Optional[int]
    input_tokens: Optional[int]
    output_tokens: Optional[int]


class Minutes:
    """Calls of each agent in the last minute, counted by the second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._agents: "OrderedDict[str, Deque[List[int]]]" = OrderedDict()

    def note(self, agent: str, now: float) -> int:
        """Counts one call. Gives those of this second and the 59 before it."""
        second = int(now)
        with self._lock:
            seconds = self._agents.get(agent)
            if seconds is None:
                seconds = self._agents[agent] = deque()
                if len(self._agents) > _AGENTS:
                    self._agents.popitem(last=False)
            else:
                self._agents.move_to_end(agent)
            if seconds and seconds[-1][0] >= second:
                seconds[-1][1] += 1
            else:
                seconds.append([second, 1])
            while seconds[0][0] <= second - 60:
                seconds.popleft()
            return sum(count for _, count in seconds)


class Poster:
    """The queue and the thread that empties it."""

    def __init__(
        self, url: Url, path: str, headers: Dict[str, str], context: Optional[ssl.SSLContext], queue_size: int
    ) -> None:
        self._url, self._path, self._context, self._size = url, path, context, queue_size
        self._headers = {**headers, "Content-Type": "application/x-ndjson", "X-Phronis": "1"}
        self._connection: Optional[Connection] = None
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._queue: Deque[CallEvent] = deque()
        #: Something is there to be sent, or the end has come.
        self._awake = threading.Event()
        #: All that was put in is sent or given up.
        self._idle = threading.Event()
        self._idle.set()
        self._closing = threading.Event()
        self._is_released = False
        self._thread: Optional[threading.Thread] = None
        self._run_id, self._number, self._failures = uuid.uuid4().hex[:16], 0, 0
        self.posted = self.dropped = self._in_flight = 0
        self.trouble: Optional[str] = None

    @property
    def waiting(self) -> int:
        """Events that the host has not taken yet."""
        with self._lock:
            return len(self._queue) + self._in_flight

    def put(self, event: CallEvent) -> None:
        """Takes an event. Never waits for anything but the queue's own lock."""
        with self._lock:
            if self._closing.is_set():
                self.dropped += 1
                return
            if len(self._queue) >= self._size:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(event)
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="phronis-guard-events", daemon=True)
                self._thread.start()
        if not self._awake.is_set():
            self._awake.set()

    def flush(self, seconds: float) -> bool:
        """Waits until all is sent or given up. Gives whether it is."""
        return self._idle.wait(seconds)

    def stop(self, seconds: float) -> None:
        """Sends what is there within the time, and ends."""
        self._idle.wait(seconds)
        with self._lock:
            self._closing.set()
            thread, connection = self._thread, self._connection
        self._awake.set()
        if connection is not None:
            connection.close()
        if thread is not None:
            thread.join(0.5)

    def release(self) -> None:
        """Ends the thread once all is sent. Does not wait."""
        self._is_released = True
        self._awake.set()

    def after_fork(self) -> None:
        """In the child: what waits is the parent's to send."""
        if self._connection is not None:
            self._connection.abandon()
            self._connection = None
        was_closing = self._closing.is_set()
        self._forget()
        if was_closing:
            self._closing.set()

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._hang_up()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._awake.wait()
            if self._is_released and not self._queue:
                return
            self._closing.wait(_LINGER)
            while not self._closing.is_set():
                with self._lock:
                    self._awake.clear()
                    batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
                    self._in_flight = len(batch)
                    if not batch:
                        self._idle.set()
                        if self._is_released:
                            self._awake.set()
                        break
                self._send_until_done(batch)

    def _send_until_done(self, batch: List[CallEvent]) -> None:
        body = self._body(batch)
        while not self._closing.is_set():
            try:
                pause = self._send(body, len(batch))
            except (OSError, HttpError) as error:
                self._hang_up()
                self._say(f"{self._url.origin} takes no events: {error or type(error).__name__}")
                pause = self._pause()
            except Exception:
                log.exception("posting events failed in an unexpected way, %d are given up", len(batch))
                self._hang_up()
                self._done(dropped=len(batch))
                return
            if pause is None:
                return
            self._failures += 1
            self._closing.wait(pause)
        self._done(dropped=len(batch))

    def _done(self, posted: int = 0, dropped: int = 0) -> None:
        with self._lock:
            self.posted += posted
            self.dropped += dropped
            self._in_flight = self._failures = 0

    def _send(self, body: bytes, count: int) -> Optional[float]:
        """Sends once. Gives None when the batch is done with, or the seconds to wait before it is sent again."""
        was_open = self._connection is not None
        try:
            status, headers, answer = self._exchange(body)
        except (OSError, HttpError):
            # A host closes connections that were quiet for a while; that is no trouble yet.
            self._hang_up()
            if not was_open:
                raise
            status, headers, answer = self._exchange(body)
        if status in (200, 202):
            self._done(posted=count)
            self.trouble = None
            return None
        if status in (401, 403, 404) or 300 <= status < 400:
            self._say(f"{self._url.origin} takes no events ({status}): check api_key (role write), stream and tenant")
            return _REFUSED
        if status in (408, 429) or status >= 500:
            self._say(f"{self._url.origin} takes no events for now ({status})")
            return retry_after(headers, _MOST) or self._pause()
        self._say(f"{self._url.origin} refuses events ({status}): {answer[:300].decode('utf-8', 'replace')}")
        self._done(dropped=count)
        return None

    def _exchange(self, body: bytes) -> Tuple[int, Dict[str, str], bytes]:
        connection = self._connection
        if connection is None:
            connection = self._connection = Connection(self._url, self._context, _TIMEOUT, _TIMEOUT)
        response = connection.request("POST", self._path, self._headers, body)
        answer = response.body()
        if not connection.is_reusable:
            self._hang_up()
        return response.status, response.headers, answer

    def _pause(self) -> float:
        return random.uniform(0, min(_MOST, 0.1 * 2 ** min(self._failures, 10)))

    def _say(self, trouble: str) -> None:
        if trouble != self.trouble and not self._closing.is_set():
            log.warning("%s", trouble)
        self.trouble = trouble

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _body(self, batch: List[CallEvent]) -> bytes:
        lines = []
        for event in batch:
            self._number += 1
            lines.append(json.dumps(_document(event, f"{self._run_id}-{self._number}"), separators=(",", ":")))
        return ("\n".join(lines) + "\n").encode()


def _document(event: CallEvent, call_id: str) -> Dict[str, Any]:
    """The event as the contract of the stream `agents` wants it."""
    metadata: Dict[str, Any] = {
        "call_id": call_id,
        "tool": event.tool[:_NAME],
        "outcome": event.outcome,
        "calls_in_minute": event.calls_in_minute,
        "latency_ms": round(event.latency_ms, 3),
    }
    for name in ("tokens", "input_tokens", "output_tokens"):
        value = getattr(event, name)
        if value is not None:
            metadata[name] = value
    at = datetime.fromtimestamp(event.at, tz=timezone.utc).isoformat(timespec="microseconds")
    return {
        "agent_id": event.agent,
        "event_type": "TOOL_CALL",
        "status": "halted" if event.outcome == "halted" else "running",
        "timestamp": at.replace("+00:00", "Z"),
        "metadata": metadata,
    }
