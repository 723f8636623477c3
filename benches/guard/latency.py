"""How long from the post of an event that halts its agent to the refusal of that agent's next call.

    python3 benches/guard/latency.py --url http://127.0.0.1:8000

Needs a running host as in examples/guarded-agent: `threshold` on `metadata.calls_in_minute` above 500 with `halt`,
`may_halt = true`. Another process posts RATE calls of well-behaved agents a second, one event a post, and every
`--every` of them one of a new agent that made 501 calls in a minute. This process asks the guard for that agent, four times a
millisecond, until it is refused. Both read the machine's monotonic clock; the time runs from the begin of the post.
Prints one JSON object. Each agent is new, so that each refusal is a halt of its own.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "sdk/python"))

from phronis_guard import Guard


def event(agent, calls):
    metadata = {"tool": "search", "calls_in_minute": calls, "latency_ms": 3.5}
    return json.dumps({"agent_id": agent, "event_type": "TOOL_CALL", "status": "running", "metadata": metadata}) + "\n"


def post(url, key, rate, every, rounds, run, begun, may_go):
    """Posts at its own pace, whatever the answers take, on a few connections."""
    import queue
    import threading

    parts = urlsplit(url)
    headers = {"Content-Type": "application/x-ndjson", **({"X-API-Key": key} if key else {})}
    work = queue.Queue()

    def send():
        connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=30)
        while True:
            at, agent, calls = work.get()
            if at is None:
                return
            body = event(agent, calls)
            if calls > 500:
                begun.put((agent, time.monotonic()))
            connection.request("POST", "/v1/streams/agents/events", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 202:
                print(f"the host answers {answer.status}", file=sys.stderr)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    may_go.wait()
    start, sent = time.monotonic(), 0
    for number in range(rounds):
        for _ in range(every):
            due = start + sent / rate
            time.sleep(max(0.0, due - time.monotonic()))
            sent += 1
            is_last = sent % every == 0
            work.put((due, f"{run}-{number}" if is_last else f"calm-{sent % 100}", 501 if is_last else 5))
    for _ in threads:
        work.put((None, None, None))
    for thread in threads:
        thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key")
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second")
    parser.add_argument("--every", type=int, default=50, help="one event of so many halts")
    parser.add_argument("--rounds", type=int, default=500, help="halts")
    options = parser.parse_args()

    run = f"run-{os.getpid()}-{int(time.time())}"
    context = multiprocessing.get_context("spawn")
    begun, may_go = context.Queue(), context.Event()
    args = (options.url, options.api_key, options.rate, options.every, options.rounds, run, begun, may_go)
    poster = context.Process(target=post, args=args, daemon=True)
    poster.start()
    guard = Guard(options.url, api_key=options.api_key, post_events=False, patience=10)
    guard.check("warm")
    may_go.set()
    load_before = os.getloadavg()[0]
    refused = {}
    for number in range(options.rounds):
        agent = f"{run}-{number}"
        deadline = time.monotonic() + 60
        while not guard.is_halted(agent):
            if time.monotonic() > deadline:
                sys.exit(f"{agent} was never halted: is the host configured as in examples/guarded-agent?")
            time.sleep(0.00025)
        refused[agent] = time.monotonic()
    took = []
    for _ in range(options.rounds):
        agent, at = begun.get(timeout=10)
        took.append((refused[agent] - at) * 1000)
    took.sort()
    poster.join(30)
    at = lambda share: round(took[min(len(took) - 1, int(len(took) * share))], 2)  # noqa: E731
    guard.close()
    figures = {"p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": round(took[-1], 2)}
    print(json.dumps({"halts": len(took), "events_a_second": options.rate, **figures, "load_before": round(load_before, 2)}))


if __name__ == "__main__":
    main()
