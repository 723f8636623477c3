"""The guard: what a program holds, asks and puts around its tools."""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import threading
import weakref
from time import monotonic
from typing import Any, Callable, Dict, Optional, TypeVar, overload
from urllib.parse import urlencode

from .cache import Cache
from .calls import Call, OnHalt, Running
from .errors import AgentHalted
from .events import Minutes, Poster
from .feed import Feed
from .http import Url
from .state import State
from .wrap import Agent, Options, Usage, wrap

T = TypeVar("T")

#: Characters of an agent's name: the limit of the contract of the stream `agents`.
_NAME = 256

#: Seconds that the end of the process waits, in all, for events that are not sent yet.
_LAST_WORDS = 2.0

#: All guards of this process, which start anew after a fork.
_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()
#: All queues of events, which are sent at the end; they outlive their guards until they are empty.
_posters: "weakref.WeakSet[Poster]" = weakref.WeakSet()


class Guard:
    """Refuses the tool calls of halted agents.

    `url` is the Phronis host, `agent` the default agent (or what tells it from a tool's arguments), `api_key` a key of
    the host: reading halts needs none, posting events needs the role write. `tenant` is another than the default one.

    `when_unreachable` says what holds while the host is not heard (known halts hold under each):
    `last_known` the last state, at any age or up to `stale_after` seconds, and nothing runs before the first;
    `fail_open` everything runs; `fail_closed` nothing runs. The last two begin after `stale_after` seconds (3).

    `patience` is how long the very first check of a process waits for the first word of the host.
    A guard is made once and shared by all threads; it costs one connection and one thread, and one more for events.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        agent: Optional[Agent] = None,
        api_key: Optional[str] = None,
        tenant: Optional[str] = None,
        when_unreachable: str = "last_known",
        stale_after: Optional[float] = None,
        post_events: bool = True,
        stream: str = "agents",
        *,
        on_halt: Optional[OnHalt] = None,
        queue_size: int = 10_000,
        patience: float = 2.0,
        ssl_context: Optional[ssl.SSLContext] = None,
    ) -> None:
        place = Url(url)
        for name, text in (("api_key", api_key), ("tenant", tenant), ("stream", stream)):
            if text is not None and not (text.isascii() and text.isprintable() and text and " " not in text):
                raise ValueError(f"{name} is empty or holds characters that it cannot")
        if "/" in stream or "?" in stream or "#" in stream:
            raise ValueError(f"{stream!r} is not the name of a stream")
        if queue_size < 1:
            raise ValueError("queue_size is at least 1")
        self.agent = agent
        self._default = _name(agent) if isinstance(agent, str) else None
        self.on_halt = on_halt
        self._running, self._minutes = Running(), Minutes()
        self._patience, self._refused, self._is_closed = patience, 0, False
        self._lock = threading.Lock()
        self._cache = Cache(when_unreachable, stale_after)
        headers: Dict[str, str] = {"User-Agent": "phronis-guard/0.1.0"}
        if api_key is not None:
            headers["X-API-Key"] = api_key
        query = "?" + urlencode({"tenant": tenant}) if tenant else ""
        self._feed = Feed(
            place, f"/v1/agents/stream{query}", headers, ssl_context, self._cache, self._running.halt
        )
        self._poster: Optional[Poster] = None
        if post_events:
            path = f"/v1/streams/{tenant + '.' if tenant else ''}{stream}/events"
            self._poster = Poster(place, path, headers, ssl_context, queue_size)
            _posters.add(self._poster)
        _guards.add(self)
        # The threads know their own parts alone, so that a guard which nobody holds any more ends them.
        weakref.finalize(self, _release, self._feed, self._poster).atexit = False
        self._feed.start()

    # -- Asking ------------------------------------------------------------------------------------------------

    def check(self, agent: Optional[str] = None) -> None:
        """Raises `AgentHalted` when the agent may not call tools now."""
        if agent is None:
            agent = self._default
        if agent.__class__ is str:
            fast_until, halted = self._cache.fast
            if agent not in halted and monotonic() < fast_until and agent:
                return
        self._decide(agent)

    def is_halted(self, agent: Optional[str] = None) -> bool:
        """Whether `check` would raise."""
        agent = self._agent(agent)
        self._settle()
        return self._cache.refusal(agent) is not None

    def state(self) -> State:
        """What the guard knows, and how old that is."""
        halted, tenant_halt = self._cache.known
        poster = self._poster
        return State(
            is_connected=self._feed.is_connected,
            age=self._cache.age(),
            is_stale=self._cache.is_stale(),
            halted=len(halted),
            tenant_is_halted=tenant_halt is not None,
            epoch=self._cache.epoch,
            version=self._cache.version,
            when_unreachable=self._cache.policy,
            trouble=self._cache.trouble,
            refused=self._refused,
            events_posted=poster.posted if poster else 0,
            events_waiting=poster.waiting if poster else 0,
            events_dropped=poster.dropped if poster else 0,
            events_trouble=poster.trouble if poster else None,
        )

    # -- Putting it around tools -------------------------------------------------------------------------------

    @overload
    def __call__(self, target: T) -> T: ...

    @overload
    def __call__(
        self,
        *,
        agent: Optional[Agent] = ...,
        tool: Optional[str] = ...,
        usage: Optional[Usage] = ...,
        on_halt: Optional[OnHalt] = ...,
    ) -> Callable[[T], T]: ...

    def __call__(
        self,
        target: Any = None,
        *,
        agent: Optional[Agent] = None,
        tool: Optional[str] = None,
        usage: Optional[Usage] = None,
        on_halt: Optional[OnHalt] = None,
    ) -> Any:
        """Guards a function, a method, a generator, or a tool of a framework; with options, gives the decorator.

        `agent` is a name, or a function of the tool's arguments; `tool` is the tool's name in events;
        `usage` reads tokens from the result (a number, or something with `input_tokens` and `output_tokens`);
        `on_halt` is called, on another thread, when a halt comes while the tool runs.
        """
        if isinstance(agent, str):
            _name(agent)
        elif agent is None and self.agent is None:
            raise TypeError("whose tool is it? give agent=… here or to the guard")
        options = Options(self, agent, tool, usage, on_halt)
        return (lambda found: wrap(found, options)) if target is None else wrap(target, options)

    def wrap(self, target: T, *, agent: Optional[Agent] = None, **options: Any) -> T:
        """The guarded form of a tool: the same as `guard(agent=…)(target)`."""
        guarded: T = self(agent=agent, **options)(target)
        return guarded

    def call(self, agent: Optional[str] = None, *, tool: str = "call", on_halt: Optional[OnHalt] = None) -> Call:
        """One call, for `with` and `async with`."""
        return Call(self, self._agent(agent), tool, on_halt if on_halt is not None else self.on_halt)

    # -- Ending ------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 2.0) -> bool:
        """Waits until all events are taken by the host or given up. Gives whether they are."""
        return self._poster is None or self._poster.flush(timeout)

    def close(self, timeout: float = 2.0) -> None:
        """Sends what waits, within the time, and lets go of the host. Checks raise from then on."""
        self._is_closed = True
        self._cache.forget_age()
        if self._poster is not None:
            self._poster.stop(timeout)
        self._feed.stop(0.5)
        # What the thread heard in its last moment must not open the fast path again.
        self._cache.forget_age()
        _guards.discard(self)

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # -- Inside ------------------------------------------------------------------------------------------------

    def _decide(self, agent: Optional[str]) -> None:
        name = self._agent(agent)
        self._settle()
        refusal = self._cache.refusal(name)
        if refusal is not None:
            with self._lock:
                self._refused += 1
            raise refusal

    def _agent(self, agent: Optional[str]) -> str:
        if agent is None:
            if self._default is None:
                raise TypeError("which agent? the guard has no default one that needs no arguments")
            return self._default
        return _name(agent)

    def _settle(self) -> None:
        if self._is_closed:
            raise RuntimeError("the guard is closed")
        if not self._feed.is_settled:
            self._feed.wait(self._patience)

    async def settled(self) -> None:
        """Waits for the first word of the host without holding the event loop up."""
        if not self._feed.is_settled and not self._is_closed:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                # Another event loop than asyncio's.
                self._settle()
            else:
                await loop.run_in_executor(None, self._settle)

    def _after_fork(self) -> None:
        self._feed.after_fork()
        self._running.after_fork()
        self._minutes = Minutes()
        self._refused, self._lock = 0, threading.Lock()
        if self._poster is not None:
            self._poster.after_fork()


def _name(agent: str) -> str:
    if not isinstance(agent, str):
        raise TypeError(f"an agent's name is a text, not {type(agent).__name__}")
    if not 0 < len(agent) <= _NAME:
        raise ValueError(f"an agent's name has 1 to {_NAME} characters, not {len(agent)}")
    return agent


def _release(feed: Feed, poster: Optional[Poster]) -> None:
    feed.stop(0)
    if poster is not None:
        poster.release()


def _after_fork() -> None:
    for guard in list(_guards):
        guard._after_fork()


def _at_exit() -> None:
    deadline = monotonic() + _LAST_WORDS
    for poster in list(_posters):
        poster.flush(max(0.0, deadline - monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
