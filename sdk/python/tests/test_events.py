"""What the host is told of calls."""

import os
import subprocess
import sys
import threading
import unittest
from pathlib import Path

from phronis_guard import AgentHalted, Guard
from phronis_guard.events import Minutes

from .fake_host import PATIENCE, HostCase, eventually


class Posting(HostCase):
    def test_an_event_says_who_called_what_how_often_and_how_long(self):
        guard = self.guard(agent="a")

        @guard(usage=lambda result: {"input_tokens": 3, "output_tokens": 4})
        def search(query):
            return query

        search("x")
        search("y")
        self.assertTrue(guard.flush(PATIENCE))
        first, second = self.host.calls()
        self.assertEqual((first["agent_id"], first["event_type"], first["status"]), ("a", "TOOL_CALL", "running"))
        self.assertRegex(first["timestamp"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        said = second["metadata"]
        self.assertGreaterEqual(said.pop("latency_ms"), 0)
        self.assertNotEqual(said.pop("call_id"), first["metadata"]["call_id"])
        self.assertEqual(
            said,
            {"tool": "search", "outcome": "ok", "calls_in_minute": 2, "tokens": 7, "input_tokens": 3, "output_tokens": 4},
        )

    def test_tokens_are_read_where_frameworks_put_them(self):
        class Thing:
            def __init__(self, **fields):
                self.__dict__.update(fields)

        guard = self.guard(agent="a")
        for result, tokens in [
            (Thing(usage=Thing(prompt_tokens=3, completion_tokens=4, total_tokens=9)), 9),
            (Thing(usage_metadata={"input_tokens": 3, "output_tokens": 4}), 7),
            ({"usage": {"input_tokens": 2}}, 2),
            (Thing(usage=None), None),
            (Thing(usage={"total_tokens": -1}), None),
            (Thing(usage={"total_tokens": True}), None),
            ("text", None),
            (None, None),
        ]:
            guard(lambda: result)()
            self.assertTrue(guard.flush(PATIENCE))
            self.assertEqual(self.host.calls()[-1]["metadata"].get("tokens"), tokens, result)
        self.assertEqual(guard(lambda: "still")(), "still")
        self.assertEqual(guard(lambda: "still", usage=lambda result: 1 / 0)(), "still")

    def test_failed_and_halted_calls_say_so_and_refused_ones_are_no_calls(self):
        guard = self.guard(agent="a")

        @guard
        def fails():
            raise KeyError("x")

        with self.assertRaises(KeyError):
            fails()
        with guard.call(tool="long") as call:
            self.host.halt("a")
            eventually(lambda: call.halted)
            call.usage(5)
        with self.assertRaises(AgentHalted):
            fails()
        self.assertTrue(guard.flush(PATIENCE))
        self.assertEqual([call["metadata"]["outcome"] for call in self.host.calls()], ["error", "halted"])
        self.assertEqual([call["status"] for call in self.host.calls()], ["running", "halted"])
        self.assertEqual(guard.state().refused, 1)

    def test_a_host_that_does_not_answer_holds_no_tool_up(self):
        guard = self.guard(agent="a", queue_size=100)
        self.host.posts_may_end.clear()
        tool = guard(lambda: None)
        for _ in range(5_000):
            tool()
        state = guard.state()
        self.assertLessEqual(state.events_waiting, 100 + 500)
        self.assertEqual(state.events_waiting + state.events_dropped, 5_000)
        self.host.posts_may_end.set()
        self.assertTrue(guard.flush(PATIENCE))
        state = guard.state()
        self.assertEqual(state.events_posted + state.events_dropped, 5_000)
        # The newest are those that were kept.
        self.assertEqual(self.host.calls()[-1]["metadata"]["calls_in_minute"], 5_000)

    def test_events_wait_while_the_host_is_busy_or_away(self):
        guard = self.guard(agent="a")
        self.host.post_answers = [429, 503, 500]
        guard(lambda: None)()
        self.assertTrue(guard.flush(PATIENCE))
        self.assertEqual(len(self.host.calls()), 1)
        self.host.stop()
        guard(lambda: None)()
        self.assertFalse(guard.flush(0.1))
        self.host.start()
        self.assertTrue(guard.flush(PATIENCE))
        self.assertEqual(len(self.host.calls()), 2)
        self.assertEqual(guard.state().events_dropped, 0)

    def test_a_connection_that_the_host_closed_meanwhile_is_no_trouble(self):
        guard = self.guard(agent="a")
        for _ in range(3):
            guard(lambda: None)()
            self.assertTrue(guard.flush(PATIENCE))
            self.host.cut()
        self.assertEqual(len(self.host.calls()), 3)

    def test_what_the_host_refuses_is_counted_and_not_sent_for_ever(self):
        guard = self.guard(agent="a")
        self.host.post_answers = [422, 413]
        for _ in range(3):
            guard(lambda: None)()
            self.assertTrue(guard.flush(PATIENCE))
        state = guard.state()
        self.assertEqual((state.events_dropped, state.events_posted), (2, 1))

    def test_a_wrong_key_is_told(self):
        self.host.key = "right"
        guard = self.guard(agent="a", api_key="wrong")
        guard(lambda: None)()
        eventually(lambda: "401" in (guard.state().events_trouble or ""))
        self.assertNotIn("wrong", guard.state().events_trouble)
        self.assertEqual(guard.state().events_waiting, 1)

    def test_a_guard_that_nobody_holds_ends_its_threads(self):
        others = threading.enumerate()
        guard = Guard(self.host.url, agent="a", patience=PATIENCE)
        with guard.call():
            pass
        self.assertTrue(guard.flush(PATIENCE))
        new = [thread for thread in threading.enumerate() if thread not in others]
        own = [thread for thread in new if thread.name.startswith("phronis-guard")]
        self.assertEqual(len(own), 2)
        del guard
        eventually(lambda: not any(thread.is_alive() for thread in own))

    def test_the_end_of_the_process_sends_what_waits_and_is_bounded(self):
        program = "import sys; from phronis_guard import Guard; Guard(sys.argv[1], agent='a', when_unreachable='fail_open')"
        program += "(lambda: None)()"
        # A host that is there may take its time.
        patient = f"; import phronis_guard.guard as guard; guard._LAST_WORDS = {PATIENCE}"
        for program, is_there in ((program + patient, True), (program, False)):
            if not is_there:
                self.host.stop()
            env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            ran = subprocess.run(
                [sys.executable, "-c", program, self.host.url], env=env, timeout=120, capture_output=True, text=True
            )
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertNotIn("Traceback", ran.stderr)
            self.assertEqual(len(self.host.calls()), 1)


class Counting(unittest.TestCase):
    def test_calls_in_a_minute_slide(self):
        minutes = Minutes()
        self.assertEqual([minutes.note("a", at) for at in (0.0, 0.9, 30.0, 59.9)], [1, 2, 3, 4])
        self.assertEqual(minutes.note("b", 59.9), 1)
        self.assertEqual(minutes.note("a", 60.0), 3)
        self.assertEqual(minutes.note("a", 89.9), 4)
        self.assertEqual(minutes.note("a", 90.0), 4)
        self.assertEqual(minutes.note("a", 1000.0), 1)

    def test_memory_does_not_grow_with_agents_or_calls(self):
        minutes = Minutes()
        for at in range(30_000):
            minutes.note(f"a{at}", at / 1000)
            minutes.note("busy", at / 1000)
        self.assertLessEqual(len(minutes._agents), 10_000)
        self.assertLessEqual(len(minutes._agents["busy"]), 60)


if __name__ == "__main__":
    unittest.main()
