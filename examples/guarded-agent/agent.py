"""An agent that goes round in circles until its guard stops it.

Prints one JSON object at the end: how many calls ran, why the next did not, and the milliseconds between the halt
(by the host's clock) and the refusal. Ends with 0 when it was stopped, with 1 when it never was.
"""

import argparse
import json
import logging
import sys
import time
from datetime import datetime, timezone

from phronis_guard import AgentHalted, Guard


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--agent", default="runaway-1")
    parser.add_argument("--api-key", help="needed once the host has keys")
    parser.add_argument("--rate", type=float, default=200.0, help="calls a second")
    parser.add_argument("--most", type=int, default=20_000, help="calls after which it gives up running away")
    parser.add_argument("--patience", type=float, default=2.0, help="seconds for the host at start and end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    guard = Guard(options.url, agent=options.agent, api_key=options.api_key, patience=options.patience)

    @guard(usage=lambda answer: len(answer.split()))
    def search(query: str) -> str:
        """Stands for a tool that costs money."""
        time.sleep(1 / options.rate)
        return f"nothing new about {query}"

    calls, last = 0, 0.0
    try:
        while calls < options.most:
            search("the meaning of it all")
            calls, last = calls + 1, time.time()
    except AgentHalted as halted:
        refused = time.time()
        said = {
            "agent": halted.agent_id,
            "calls": calls,
            "reason": halted.reason,
            "actor": halted.actor,
            "halted_at": halted.at.isoformat() if halted.at else None,
            "last_call_ended_at": datetime.fromtimestamp(last, timezone.utc).isoformat() if last else None,
            "refused_at": datetime.fromtimestamp(refused, timezone.utc).isoformat(),
            "halt_to_refusal_ms": round((refused - halted.at.timestamp()) * 1000, 3) if halted.at else None,
        }
        print(json.dumps(said), flush=True)
        return 0
    finally:
        guard.close(options.patience)
    print(json.dumps({"agent": options.agent, "calls": calls, "reason": None, "state": guard.state()._asdict()}))
    return 1


if __name__ == "__main__":
    sys.exit(main())
