"""What the guard knows of the host's halts, and what it decides from that.

Pure but for a clock that is an argument. One thread writes (`feed.py`), all threads read without a lock:
what belongs together is replaced by one assignment, so that a reader sees all of it or nothing.

How a check decides, in this order:
1. A halt that is known and not expired refuses, whatever the connection's state.
2. No state was ever seen: refuses, but for `fail_open`.
3. The last word of the host is older than `stale_after`: `fail_open` allows, the other two refuse.
   `last_known` has no `stale_after` unless one is given: then the last state holds at any age.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

from .errors import AgentHalted

POLICIES = ("last_known", "fail_open", "fail_closed")

#: Silence after which the host counts as away: it sends a beat each second.
SILENCE = 3.0

#: Characters of a text that is shown to people; longer ones are cut.
_TEXT = 2000


class ProtocolError(Exception):
    """The host said something that does not fit; the guard connects anew."""


class Halt(NamedTuple):
    """A halt in force."""

    reason: str
    actor: Optional[str]
    at: Optional[datetime]
    #: Microseconds since 1970 by the host's clock; None: until someone lifts it.
    expires_at: Optional[int]

    def error(self, agent: str) -> AgentHalted:
        return AgentHalted(agent, self.reason, self.actor, self.at)


class Cache:
    """Halts of agents and of the tenant, and the age of what is known."""

    def __init__(
        self,
        policy: str,
        stale_after: Optional[float],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"when_unreachable is {policy!r}, expected one of {', '.join(POLICIES)}")
        if stale_after is not None and not stale_after > 0:
            raise ValueError("stale_after is a number of seconds above 0")
        self.policy = policy
        self.stale_after = stale_after if stale_after is not None or policy == "last_known" else SILENCE
        self._now = now
        #: Halts of agents, and of the tenant.
        self.known: Tuple[Dict[str, Halt], Optional[Halt]] = ({}, None)
        #: The whole fast path: until this moment (monotonic), who is not in this map may call.
        self.fast: Tuple[float, Dict[str, Halt]] = (-math.inf, {})
        self.epoch: Optional[str] = None
        self.version = 0
        #: When the host last said something, by the monotonic clock.
        self.heard_at: Optional[float] = None
        #: Microseconds of the host's clock minus those of the monotonic one, as it was last heard.
        self._host_offset: Optional[float] = None
        #: Why there is no connection, in words.
        self.trouble: Optional[str] = None

    # -- What the host says ------------------------------------------------------------------------------------

    def snapshot(self, data: Any) -> Dict[str, Halt]:
        """Replaces what is known. Gives the halts that were not known before; of the tenant under ''."""
        epoch, version = _epoch(data), _version(data)
        entries = data.get("halted")
        if not isinstance(entries, list):
            raise ProtocolError("a snapshot without the list `halted`")
        halted: Dict[str, Halt] = {}
        tenant_halt: Optional[Halt] = None
        for entry in entries:
            agent, halt = _entry(entry)
            if halt is None:
                continue
            if agent is None:
                tenant_halt = halt
            else:
                halted[agent] = halt
        before, tenant_before = self.known
        fresh = {agent: halt for agent, halt in halted.items() if agent not in before}
        if tenant_halt is not None and tenant_before is None:
            fresh[""] = tenant_halt
        self.known = (halted, tenant_halt)
        self.epoch, self.version = epoch, version
        self._learn_clock(data)
        self._heard()
        return fresh

    def change(self, data: Any) -> Dict[str, Halt]:
        """Takes one change. Gives the halt that begins, as `snapshot` does."""
        self._expect(data, self.version + 1)
        agent, halt = _entry(data)
        halted, tenant_halt = self.known
        fresh: Dict[str, Halt] = {}
        if halt is not None and (agent not in halted if agent is not None else tenant_halt is None):
            fresh[agent or ""] = halt
        if agent is None:
            self.known = (halted, halt)
        elif halt is None:
            halted.pop(agent, None)
        else:
            halted[agent] = halt
        self.version += 1
        self._heard()
        return fresh

    def beat(self, data: Any) -> None:
        """The host is there, and nothing was missed."""
        self._expect(data, self.version)
        self._learn_clock(data)
        self._heard()

    def forget_age(self) -> None:
        """From now on no call is allowed unseen: the next check decides slowly. For the child after a fork."""
        self.fast = (-math.inf, {})

    def _learn_clock(self, data: Mapping[str, Any]) -> None:
        at = _micros(data.get("at"))
        if at is not None:
            self._host_offset = at - self._now() * 1e6

    def _expect(self, data: Any, version: int) -> None:
        if self.epoch is None:
            raise ProtocolError("the stream does not begin with a snapshot")
        if _epoch(data) != self.epoch:
            raise ProtocolError("another incarnation of the host")
        if _version(data) != version:
            raise ProtocolError(f"a gap: version {_version(data)} where {version} was to come")

    def _heard(self) -> None:
        self.heard_at = self._now()
        self.trouble = None
        halted, tenant_halt = self.known
        until = math.inf if self.stale_after is None else self.heard_at + self.stale_after
        self.fast = (until if tenant_halt is None else -math.inf, halted)

    # -- What is decided ---------------------------------------------------------------------------------------

    def refusal(self, agent: str) -> Optional[AgentHalted]:
        """Why the agent may not call; None when it may."""
        halted, tenant_halt = self.known
        for halt in (halted.get(agent), tenant_halt):
            if halt is not None and not self._is_over(halt):
                return halt.error(agent)
        if self.policy == "fail_open":
            return None
        if self.heard_at is None:
            why = f": {self.trouble}" if self.trouble else ""
            return AgentHalted(agent, f"the host's state was never seen{why}")
        if self.is_stale():
            age = self._now() - self.heard_at
            return AgentHalted(agent, f"the host was last heard {age:.1f} s ago")
        return None

    def is_stale(self) -> bool:
        """Whether what is known is older than it may be."""
        if self.heard_at is None:
            return True
        return self.stale_after is not None and self._now() - self.heard_at > self.stale_after

    def age(self) -> Optional[float]:
        """Seconds since the host last said something."""
        return None if self.heard_at is None else max(0.0, self._now() - self.heard_at)

    def _is_over(self, halt: Halt) -> bool:
        """By the host's clock as last heard, carried on by the monotonic one: no wall clock that jumps lifts anything."""
        if halt.expires_at is None or self._host_offset is None:
            return False
        return self._now() * 1e6 + self._host_offset >= halt.expires_at


def _entry(data: Any) -> Tuple[Optional[str], Optional[Halt]]:
    """Agent (None: the tenant) and its halt (None: it runs). A state that is not known counts as halted."""
    if not isinstance(data, dict) or not isinstance(data.get("state"), str):
        raise ProtocolError("an entry without `state`")
    if "agent" not in data or not (data["agent"] is None or (isinstance(data["agent"], str) and data["agent"])):
        raise ProtocolError("an entry whose `agent` is neither a name nor null")
    if data["state"] == "running":
        return data["agent"], None
    reason, actor = data.get("reason"), data.get("actor")
    expires = data.get("expires_at")
    expires_at = _micros(expires)
    if expires is not None and expires_at is None:
        raise ProtocolError("`expires_at` is not a time")
    halt = Halt(
        reason=reason[:_TEXT] if isinstance(reason, str) else "no reason given",
        actor=actor[:_TEXT] if isinstance(actor, str) else None,
        at=_datetime(_micros(data.get("at"))),
        expires_at=expires_at,
    )
    return data["agent"], halt


def _epoch(data: Any) -> str:
    epoch = data.get("epoch") if isinstance(data, Mapping) else None
    if isinstance(epoch, str) or (isinstance(epoch, int) and not isinstance(epoch, bool)):
        return str(epoch)
    raise ProtocolError("an event without `epoch`")


def _version(data: Mapping[str, Any]) -> int:
    version = data.get("version")
    if isinstance(version, int) and not isinstance(version, bool) and version >= 0:
        return version
    raise ProtocolError("an event without `version`")


def _micros(at: Any) -> Optional[int]:
    """Microseconds since 1970 of a time in JSON: RFC 3339, or the number itself."""
    if isinstance(at, int) and not isinstance(at, bool):
        return at
    if not isinstance(at, str):
        return None
    # Python 3.9 reads neither `Z` nor a fraction that has not three or six digits.
    text = at[:-1] + "+00:00" if at[-1:] in ("Z", "z") else at
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    text = f"{head}.{rest[:digits][:6]:0<6}{rest[digits:]}" if dot else text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    try:
        since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    except OverflowError:
        return None
    return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds


def _datetime(micros: Optional[int]) -> Optional[datetime]:
    if micros is None:
        return None
    try:
        return datetime.fromtimestamp(micros / 1e6, tz=timezone.utc)
    except (OverflowError, OSError, ValueError):
        return None
