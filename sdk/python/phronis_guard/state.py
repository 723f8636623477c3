"""What a guard says about itself."""

from __future__ import annotations

from typing import NamedTuple, Optional


class State(NamedTuple):
    """A guard at one moment."""

    #: Whether the host's stream is open.
    is_connected: bool
    #: Seconds since the host was last heard; None: never.
    age: Optional[float]
    #: Whether what is known is older than `stale_after`, or nothing is.
    is_stale: bool
    #: Halted agents, and whether everything of the tenant is halted.
    halted: int
    tenant_is_halted: bool
    #: The host's incarnation, and how many changes it has told.
    epoch: Optional[str]
    version: int
    #: What holds while the host is not heard.
    when_unreachable: str
    #: Why the host is not heard.
    trouble: Optional[str]
    #: Calls that were refused.
    refused: int
    #: TOOL_CALL events: taken by the host, waiting, given up (the queue was full, or the host will not take them).
    events_posted: int
    events_waiting: int
    events_dropped: int
    #: Why events are not taken.
    events_trouble: Optional[str]
