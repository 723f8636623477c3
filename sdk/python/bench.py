"""What a check costs: `python3 sdk/python/bench.py`.

Measured with timeit against the tests' host on this machine: one thread asks, the guard's own thread listens to beats.
The best of several rounds is the cost; the others show what else the machine did.
"""

import statistics
import sys
import timeit
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from phronis_guard import AgentHalted, Guard
from tests.fake_host import FakeHost, eventually

HALTED = 50_000
ROUNDS = 15


def measure(name, what, number=200_000):
    """Prints nanoseconds a call."""
    rounds = [seconds / number * 1e9 for seconds in timeit.repeat(what, number=number, repeat=ROUNDS)]
    print(f"{name:<58} {min(rounds):>8.0f} ns   median {statistics.median(rounds):>8.0f} ns")


def refused(check):
    try:
        check("agent-00007")
    except AgentHalted:
        pass


def main():
    host = FakeHost(beat_every=1.0)
    guard = Guard(host.url, agent="good", post_events=False, patience=30)
    strict = Guard(host.url, agent="good", post_events=False, when_unreachable="fail_closed", patience=30)
    posting = Guard(host.url, agent="good", patience=30)
    for one in (guard, strict, posting):
        one.check()
    check, check_strict = guard.check, strict.check

    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds")
    measure("loop and an empty function", lambda: None)
    measure("check(agent), nothing halted", lambda: check("good"))
    measure("check(), default agent, nothing halted", lambda: check())
    measure("check(agent), nothing halted, fail_closed", lambda: check_strict("good"))

    plain = lambda: None  # noqa: E731
    measure("guarded function, no events", guard(plain), 50_000)
    measure("guarded function, events queued", posting(plain), 50_000)

    with host.lock:
        for at in range(HALTED):
            host.halts[f"agent-{at:05}"] = {"agent": f"agent-{at:05}", "state": "halted", "reason": "too many calls"}
        host.skip()
    eventually(lambda: guard.state().halted == HALTED and strict.state().halted == HALTED, 60)
    measure(f"check(agent), {HALTED} others halted", lambda: check("good"))
    measure(f"check(agent), {HALTED} others halted, fail_closed", lambda: check_strict("good"))
    measure(f"check(agent), refused, {HALTED} halted", lambda: refused(check), 50_000)
    for one in (guard, strict, posting):
        one.close(0)
    host.stop()


if __name__ == "__main__":
    main()
