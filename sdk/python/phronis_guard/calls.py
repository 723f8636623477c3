"""Calls that are running: who is to be told when a halt comes, and what is told to the host at their end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set, Type

from .cache import Halt
from .errors import AgentHalted
from .events import CallEvent

if TYPE_CHECKING:
    from .guard import Guard

log = logging.getLogger("phronis_guard")

OnHalt = Callable[[AgentHalted], Any]


class Running:
    """All calls of a guard that are running, by agent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Dict[str, Set["Call"]] = {}

    def add(self, call: "Call") -> None:
        with self._lock:
            self._calls.setdefault(call.agent, set()).add(call)

    def remove(self, call: "Call") -> None:
        with self._lock:
            calls = self._calls.get(call.agent)
            if calls is not None:
                calls.discard(call)
                if not calls:
                    del self._calls[call.agent]

    def halt(self, halts: Dict[str, Halt]) -> None:
        """Tells the running calls of these agents; '' is the whole tenant. Callbacks get a thread: they may take long."""
        told: List[Call] = []
        with self._lock:
            for agent, halt in halts.items():
                of = list(self._calls.values()) if agent == "" else [self._calls.get(agent, set())]
                for call in (call for calls in of for call in calls):
                    call.halted = call.halted or halt.error(call.agent)
                    told.append(call)
        callbacks = [call for call in told if call.on_halt is not None]
        for call in told:
            call.cancel()
        if callbacks:
            threading.Thread(target=_call_back, args=(callbacks,), name="phronis-guard-on-halt", daemon=True).start()

    def after_fork(self) -> None:
        """In the child only the calls of the thread that forked go on."""
        self._lock = threading.Lock()
        own, calls = threading.get_ident(), self._calls
        self._calls = {}
        for call in [call for of in calls.values() for call in of if call.thread == own]:
            self._calls.setdefault(call.agent, set()).add(call)


def _call_back(calls: "List[Call]") -> None:
    for call in calls:
        # A call that was refused or has ended meanwhile has nobody to tell.
        if call.is_active and call.on_halt is not None and call.halted is not None:
            try:
                call.on_halt(call.halted)
            except Exception:
                log.exception("on_halt of tool %r failed", call.tool)


class Call:
    """One call of a tool, as `with guard.call(…) as call:` or `async with`.

    Entering raises `AgentHalted` when the agent is halted. An `async with` is cancelled by a halt and raises it too;
    in a plain `with` ask `is_halted` now and then, or give `on_halt`.
    """

    __slots__ = (
        "_guard", "agent", "tool", "on_halt", "halted", "is_active", "thread", "tokens", "input_tokens",
        "output_tokens", "_loop", "_task", "_is_cancelled", "_started", "_calls_in_minute", "__weakref__",
    )  # fmt: skip

    def __init__(self, guard: "Guard", agent: str, tool: str, on_halt: Optional[OnHalt]) -> None:
        self._guard = guard
        #: Who calls, and what.
        self.agent, self.tool = agent, tool
        self.on_halt = on_halt
        #: The halt that came while the call ran.
        self.halted: Optional[AgentHalted] = None
        self.is_active = False
        self.thread = 0
        self.tokens: Optional[int] = None
        self.input_tokens: Optional[int] = None
        self.output_tokens: Optional[int] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._task: "Optional[asyncio.Task[Any]]" = None
        self._is_cancelled = False
        self._started, self._calls_in_minute = 0.0, 0

    @property
    def is_halted(self) -> bool:
        """Whether the agent may not go on."""
        return self.halted is not None or self._guard.is_halted(self.agent)

    def usage(self, tokens: Optional[int] = None, *, input: Optional[int] = None, output: Optional[int] = None) -> None:
        """Says how many tokens the call used; the sum follows from its parts."""
        if tokens is None and (input is not None or output is not None):
            tokens = (input or 0) + (output or 0)
        self.tokens, self.input_tokens, self.output_tokens = tokens, input, output

    def __enter__(self) -> "Call":
        # Known as running before the check, so that a halt between the two is seen by one of them.
        self.is_active, self.thread = True, threading.get_ident()
        self._guard._running.add(self)
        try:
            self._guard.check(self.agent)
        except BaseException:
            self.is_active = False
            self._guard._running.remove(self)
            raise
        self._calls_in_minute = self._guard._minutes.note(self.agent, time.monotonic())
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], _error: Optional[BaseException], _trace: Optional[TracebackType]
    ) -> None:
        elapsed = time.perf_counter() - self._started
        self.is_active = False
        self._guard._running.remove(self)
        poster = self._guard._poster
        if poster is not None:
            outcome = "halted" if self.halted is not None else "error" if kind is not None else "ok"
            poster.put(
                CallEvent(
                    self.agent, self.tool, time.time(), elapsed * 1000, self._calls_in_minute, outcome,
                    self.tokens, self.input_tokens, self.output_tokens,
                )  # fmt: skip
            )

    async def __aenter__(self) -> "Call":
        await self._guard.settled()
        try:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        except RuntimeError:
            # Another event loop than asyncio's: nothing that we could cancel.
            pass
        return self.__enter__()

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.__exit__(kind, error, trace)
        if not self._is_cancelled or self.halted is None:
            return
        # Our own cancellation is taken back; where others cancelled the task as well, theirs goes on.
        uncancel = getattr(self._task, "uncancel", None)
        others = uncancel() if uncancel is not None else 0
        if others and kind is not None and issubclass(kind, asyncio.CancelledError):
            return
        raise self.halted from error

    def cancel(self) -> None:
        """Asks the task's own thread to cancel it."""
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._cancel)
            except RuntimeError:
                # The loop is closed, and its tasks with it.
                pass

    def _cancel(self) -> None:
        # In the loop's thread, so that a call which has just ended is never cancelled behind its end.
        if self.is_active and not self._is_cancelled and self._task is not None:
            self._is_cancelled = True
            self._task.cancel()
