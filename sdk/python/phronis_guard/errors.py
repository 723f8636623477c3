"""What a refused call raises."""

from __future__ import annotations

from datetime import datetime
from typing import Optional


class AgentHalted(Exception):
    """The agent may not call tools.

    Raised before the tool runs, or out of an asynchronous tool that was running when the halt came.
    """

    def __init__(
        self, agent_id: str, reason: str, actor: Optional[str] = None, at: Optional[datetime] = None
    ) -> None:
        super().__init__(agent_id, reason, actor, at)
        #: Which agent.
        self.agent_id = agent_id
        #: Why, in the words of who halted it, or why the guard itself refuses.
        self.reason = reason
        #: Who halted it; None when the guard itself refuses since it does not know the host's state.
        self.actor = actor
        #: When it was halted, by the host's clock.
        self.at = at

    def __str__(self) -> str:
        by = f" by {self.actor}" if self.actor else ""
        return f"agent {self.agent_id!r} is halted{by}: {self.reason}"


#: The same under the name that those expect who think of a circuit breaker.
CircuitBreakerTripped = AgentHalted
