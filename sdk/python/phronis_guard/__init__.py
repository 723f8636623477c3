"""Guards the tools of AI agents with Phronis' kill switch.

>>> from phronis_guard import Guard, AgentHalted
>>> guard = Guard("http://127.0.0.1:8000", agent="researcher-7")
>>> @guard
... def search(query: str) -> str: ...

A call of `search` raises `AgentHalted` before it begins when the agent is halted.
Start reading at `guard.py`; `cache.py` decides, `feed.py` listens, `events.py` tells the host of the calls.
"""

from .calls import Call
from .errors import AgentHalted, CircuitBreakerTripped
from .guard import Guard
from .state import State

__all__ = ["AgentHalted", "Call", "CircuitBreakerTripped", "Guard", "State"]
__version__ = "0.1.0"
