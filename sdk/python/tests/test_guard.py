"""The guard against a host on a real socket."""

import asyncio
import functools
import logging
import os
import threading
import unittest
from unittest import mock

from phronis_guard import AgentHalted, CircuitBreakerTripped, Guard
from phronis_guard import feed as feed_module

from .fake_host import PATIENCE, HostCase, eventually


class Case(HostCase):
    def guard(self, **options):
        options.setdefault("post_events", False)
        return super().guard(**options)

    def refused(self, guard, agent=None):
        return eventually(lambda: guard.is_halted(agent))

    def allowed(self, guard, agent=None):
        return eventually(lambda: not guard.is_halted(agent))


class Checks(Case):
    def test_the_first_check_knows_what_is_halted(self):
        self.host.halt("a", "loops")
        guard = self.guard()
        with self.assertRaises(AgentHalted) as caught:
            guard.check("a")
        error = caught.exception
        self.assertEqual((error.agent_id, error.reason, error.actor), ("a", "loops", "ops"))
        self.assertIsNotNone(error.at.tzinfo)
        self.assertIs(CircuitBreakerTripped, AgentHalted)
        guard.check("b")

    def test_halts_and_resets_arrive(self):
        guard = self.guard(agent="a")
        guard.check()
        self.host.halt("a")
        self.refused(guard)
        self.host.reset("a")
        self.allowed(guard)
        self.host.halt(None, "stop all")
        self.refused(guard)
        with self.assertRaisesRegex(AgentHalted, "stop all"):
            guard.check("whoever")

    def test_a_halt_that_expires_lets_go_by_itself(self):
        start = self.host.clock()
        self.host.clock = lambda: start
        self.host.halt("a", expires_at=self.host.now(+3600))
        guard = self.guard(agent="a")
        self.assertTrue(guard.is_halted())
        self.host.clock = lambda: start + 3600
        self.allowed(guard)

    def test_wrong_names_are_refused_before_anything_runs(self):
        guard = self.guard()
        for agent, error in [(None, TypeError), (5, TypeError), ("", ValueError), ("x" * 257, ValueError), (b"a", TypeError)]:
            with self.assertRaises(error, msg=agent):
                guard.check(agent)
        for url in ("", "127.0.0.1:8000", "ftp://a", "http://", "http://u:p@h", "http://h?x=1"):
            with self.assertRaises(ValueError, msg=url):
                Guard(url)
        for options in ({"when_unreachable": "hope"}, {"stale_after": 0}, {"api_key": "a\r\nb"}, {"stream": "a/b"}, {"tenant": ""}):
            with self.assertRaises(ValueError, msg=options):
                Guard(self.host.url, **options)

    def test_a_closed_guard_refuses_with_an_error_of_its_own(self):
        guard = self.guard(agent="a")
        guard.check()
        guard.close()
        with self.assertRaisesRegex(RuntimeError, "closed"):
            guard.check()

    def test_the_tenant_and_the_key_travel_along(self):
        guard = self.guard(tenant="acme", api_key="s3cret", post_events=True)
        with guard.call("a", tool="t"):
            pass
        self.assertTrue(guard.flush(PATIENCE))
        paths = {(method, path) for method, path, _ in self.host.requests}
        self.assertEqual(paths, {("GET", "/v1/agents/stream?tenant=acme"), ("POST", "/v1/streams/acme.agents/events")})
        self.assertTrue(all(headers["x-api-key"] == "s3cret" for _, _, headers in self.host.requests))
        self.assertNotIn("s3cret", repr(guard.state()))

    def test_many_threads_share_a_guard(self):
        guard = self.guard(post_events=True)
        refusals = []

        @guard(agent=lambda agent: agent)
        def tool(agent):
            return agent

        def work(agent):
            for _ in range(500):
                try:
                    tool(agent)
                except AgentHalted:
                    refusals.append(agent)

        threads = [threading.Thread(target=work, args=(f"a{at % 2}",)) for at in range(8)]
        for thread in threads:
            thread.start()
        self.host.halt("a0")
        for thread in threads:
            thread.join()
        self.assertTrue(guard.flush(PATIENCE))
        self.assertNotIn("a1", refusals)
        self.assertEqual(len(self.host.calls()) + len(refusals), 4000)
        self.assertEqual(guard.state().refused, len(refusals))


class Unreachable(Case):
    def test_nothing_runs_before_the_first_state_unless_the_policy_is_open(self):
        self.host.stop()
        for policy, is_halted in [("last_known", True), ("fail_closed", True), ("fail_open", False)]:
            self.assertEqual(self.guard(when_unreachable=policy).is_halted("a"), is_halted, policy)

    def test_the_last_state_holds_with_its_age_in_sight(self):
        self.host.halt("bad")
        guard = self.guard()
        guard.check("good")
        self.host.stop()
        eventually(lambda: not guard.state().is_connected and guard.state().trouble)
        guard.check("good")
        self.assertTrue(guard.is_halted("bad"))
        first = guard.state().age
        eventually(lambda: guard.state().age > first)

    def test_closed_closes_once_the_host_is_silent_and_opens_again(self):
        guard = self.guard(when_unreachable="fail_closed", stale_after=5.0)
        self.allowed(guard, "a")
        self.host.stop()
        self.refused(guard, "a")
        with self.assertRaisesRegex(AgentHalted, "last heard"):
            guard.check("a")
        self.host.start()
        self.allowed(guard, "a")

    def test_after_a_restart_of_the_host_its_new_state_counts(self):
        guard = self.guard()
        self.host.halt("a")
        self.refused(guard, "a")
        self.host.stop()
        self.host.epoch, self.host.version, self.host.halts = "e2", 0, {}
        self.host.halt("b")
        self.host.start()
        self.refused(guard, "b")
        self.assertFalse(guard.is_halted("a"))
        self.assertEqual(guard.state().epoch, "e2")

    def test_a_refused_key_is_said_once_and_the_policy_holds(self):
        for status in (401, 403, 404, 302, 500, 200):
            self.host.refuse = (status, {"location": "http://127.0.0.1:1/elsewhere"})
            with mock.patch.object(feed_module, "_REFUSED", 0.01), self.assertLogs("phronis_guard", "WARNING") as logs:
                logging.getLogger("phronis_guard").setLevel(logging.WARNING)
                guard = self.guard(api_key="wrong")
                before = len(self.host.requests)
                self.assertTrue(guard.is_halted("a"))
                if status != 500:
                    eventually(lambda: len(self.host.requests) > before + 3)
                self.assertIn(str(status) if status != 200 else "does not answer", guard.state().trouble)
                guard.close()
            self.assertEqual(len(logs.output), 1, logs.output)
            self.assertNotIn("wrong", logs.output[0])
        # A redirect was not followed: all requests came here.
        self.host.refuse = None
        self.allowed(self.guard(), "a")

    def test_proxies_of_the_environment_are_not_for_loopback(self):
        with mock.patch.dict(os.environ, {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "no_proxy": ""}):
            self.guard().check("a")


class Misbehaving(Case):
    def connects_again(self, guard):
        before = len(self.host.requests)
        return eventually(lambda: len(self.host.requests) > before and guard.state().is_connected)

    def test_a_gap_leads_to_a_new_snapshot(self):
        guard = self.guard()
        guard.check("a")
        self.host.beats = False
        with self.host.lock:
            self.host.halts["a"] = {"agent": "a", "state": "halted", "reason": "unheard"}
            self.host.skip()
        self.host.halt("b")
        self.refused(guard, "a")
        self.assertTrue(guard.is_halted("b"))

    def test_a_beat_with_another_version_or_epoch_leads_to_a_new_snapshot(self):
        for change in ("version", "epoch"):
            guard = self.guard()
            guard.check("a")
            with self.host.lock:
                self.host.halts["a"] = {"agent": "a", "state": "halted", "reason": "unheard"}
                if change == "version":
                    self.host.version += 1
                else:
                    self.host.epoch = "e2"
            self.refused(guard, "a")
            guard.close()
            self.host.halts.clear()

    def test_a_silent_stream_is_left(self):
        with mock.patch.object(feed_module, "SILENCE", 0.2):
            guard = self.guard()
            # With so little time, the first word may be missed.
            self.allowed(guard, "a")
            self.host.beats = False
            self.connects_again(guard)

    def test_comments_are_no_beats(self):
        with mock.patch.object(feed_module, "SILENCE", 0.2):
            guard = self.guard()
            # With so little time, the first word may be missed.
            self.allowed(guard, "a")
            self.host.beats = False
            before = len(self.host.requests)

            def dribble():
                with self.host.lock:
                    for stream in self.host.streams:
                        stream.chunk(b": alive\n\n")
                return len(self.host.requests) > before

            eventually(dribble)

    def test_what_is_not_the_protocol_is_never_believed_and_never_fatal(self):
        snapshot = b'event: snapshot\ndata: {"epoch":"e","version":0,"halted":[]}\n\n'
        for raw in [
            [b"\xff\xfe\x00nonsense\n\n" * 100],
            [b"event: snapshot\ndata: {\n\n"],
            [b"event: snapshot\ndata: []\n\n"],
            [b'event: snapshot\ndata: {"epoch":"e","version":0}\n\n'],
            [b'event: beat\ndata: {"epoch":"e","version":0}\n\n', snapshot],
            [b'event: change\ndata: {"epoch":"e","version":1,"agent":"b","state":"running"}\n\n'],
            [b"event: snapshot\ndata: " + b"[" * 60_000 + b"\n\n"],
        ]:
            # Bytes without an event are taken for silence.
            with mock.patch.object(feed_module, "SILENCE", 1.0):
                self.host.raw = raw
                guard = self.guard(patience=0.2)
                self.assertTrue(guard.is_halted("a"), raw[0][:60])
                self.host.raw = None
                self.allowed(guard, "a")
                guard.close()

    def test_what_is_not_http_is_survived(self):
        with mock.patch("tests.fake_host._Handler.handle", _garbage):
            guard = self.guard(patience=0.5)
            self.assertTrue(guard.is_halted("a"))
        self.allowed(guard, "a")

    def test_a_line_without_end_does_not_fill_memory(self):
        with mock.patch("phronis_guard.sse.Parser.__init__.__defaults__", (10_000,)):
            self.host.raw = [b"data: " + b"x" * 9_000] * 4
            guard = self.guard()
            eventually(lambda: "more than 10000 bytes" in (guard.state().trouble or ""))

    def test_a_snapshot_of_50_000_is_taken(self):
        for at in range(50_000):
            self.host.halts[f"agent-{at:05}"] = {"agent": f"agent-{at:05}", "state": "halted", "reason": "r" * 50}
        guard = self.guard()
        guard.check("good")
        self.assertTrue(guard.is_halted("agent-49999"))
        self.assertEqual(guard.state().halted, 50_000)


def _garbage(handler):
    handler.wfile.write(b"220 mail.example.com ESMTP\r\n" * 10)


class Forks(Case):
    def in_child(self, child):
        """Runs a function in a forked child; gives what it returned."""
        reader, writer = os.pipe()
        number = os.fork()
        if number == 0:
            answer = b"died"
            try:
                answer = repr(child()).encode()
            except BaseException as error:
                answer = repr(error).encode()
            finally:
                os.write(writer, answer)
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read().decode()
        os.waitpid(number, 0)
        return answer

    def test_the_childs_first_check_is_right(self):
        guard = self.guard()
        guard.check("a")
        may_check = os.pipe()

        def child():
            os.read(may_check[0], 1)
            return guard.is_halted("a"), guard.is_halted("b")

        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.in_child(child)))
        thread.start()
        # After the fork, as far as the parent can tell, and before the child looks.
        self.host.halt("a")
        self.refused(guard, "a")
        os.write(may_check[1], b"x")
        thread.join()
        self.assertEqual(answers, ["(True, False)"])

    def test_the_parent_goes_on_as_if_nothing_had_been(self):
        guard = self.guard(post_events=True)
        with guard.call("a", tool="before"):
            pass
        self.assertTrue(guard.flush(PATIENCE))

        def child():
            with guard.call("a", tool="child"):
                pass
            return guard.flush(PATIENCE)

        connections = len([path for method, path, _ in self.host.requests if method == "GET"])
        self.assertEqual(self.in_child(child), "True")
        with guard.call("a", tool="after"):
            pass
        self.assertTrue(guard.flush(PATIENCE))
        self.host.halt("a")
        self.refused(guard, "a")
        gets = len([path for method, path, _ in self.host.requests if method == "GET"])
        self.assertEqual(gets, connections + 1, "the child has a stream of its own, the parent keeps its own")
        self.assertEqual(sorted(call["metadata"]["tool"] for call in self.host.calls()), ["after", "before", "child"])
        self.assertEqual(len({call["metadata"]["call_id"] for call in self.host.calls()}), 3)

    def test_without_a_host_the_child_has_its_parents_state(self):
        self.host.halt("bad")
        guard = self.guard()
        guard.check("good")
        self.host.stop()
        self.assertEqual(self.in_child(lambda: (guard.is_halted("bad"), guard.is_halted("good"))), "(True, False)")

    def test_forks_at_any_moment_leave_a_child_that_works(self):
        guard = self.guard(post_events=True)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                with guard.call("a", tool="t"):
                    pass
                self.host.halt("b")
                self.host.reset("b")

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()

        def child():
            with guard.call("a", tool="t"):
                return "fine"

        try:
            self.assertEqual([self.in_child(child) for _ in range(20)], ["'fine'"] * 20)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class Decorated(Case):
    def test_a_refused_tool_does_not_run(self):
        guard = self.guard(agent="a")
        runs = []

        @guard
        def tool(query: str, limit: int = 3) -> str:
            """Searches."""
            runs.append((query, limit))
            return "found"

        self.assertEqual((tool("x", limit=5), tool.__name__, tool.__doc__), ("found", "tool", "Searches."))
        self.host.halt("a")
        self.refused(guard)
        with self.assertRaises(AgentHalted):
            tool("y")
        self.assertEqual(runs, [("x", 5)])

    def test_every_kind_of_callable_is_guarded(self):
        guard = self.guard(agent="a")

        class Box:
            name = "of-the-box"

            @guard
            def method(self):
                return self.name

            @guard(agent=lambda self: self.name)
            def own(self):
                return self.name

            @guard
            @classmethod
            def of_class(cls):
                return cls.name

            @guard
            @staticmethod
            def of_nobody():
                return "static"

            def __call__(self):
                return "called"

        @guard
        def items():
            yield from (1, 2, 3)

        @guard
        async def later():
            await asyncio.sleep(0)
            return "later"

        @guard
        async def items_later():
            yield 1

        async def all_of():
            return [item async for item in items_later()]

        box = Box()
        ways = [
            box.method, Box.of_class, Box.of_nobody, guard(box), guard(functools.partial(int, "7")), guard(len.__call__),
            lambda: list(items()), lambda: asyncio.run(later()), lambda: asyncio.run(all_of()), box.own,
        ]  # fmt: skip
        ways[5] = functools.partial(guard(len), "four")
        self.assertEqual(
            [way() for way in ways],
            ["of-the-box", "of-the-box", "static", "called", 7, 4, [1, 2, 3], "later", [1], "of-the-box"],
        )
        self.assertTrue(asyncio.iscoroutinefunction(later))
        self.host.halt("a")
        self.host.halt("of-the-box")
        self.refused(guard, "of-the-box")
        for way in ways:
            with self.assertRaises(AgentHalted):
                way()

    def test_mistakes_are_told_where_they_are_made(self):
        guard = self.guard()
        for wrong in ("agent-7", 5, dict):
            with self.assertRaises(TypeError):
                self.guard(agent="a")(wrong)
        with self.assertRaisesRegex(TypeError, "whose tool"):
            guard(lambda: None)
        nobody = guard(agent=lambda: None)(lambda: None)
        with self.assertRaises(TypeError):
            nobody()

    def test_a_generator_stops_at_the_next_item(self):
        guard = self.guard(agent="a")
        taken = []

        @guard
        def items():
            for item in range(1000):
                yield item

        with self.assertRaises(AgentHalted):
            for item in items():
                taken.append(item)
                if item == 3:
                    self.host.halt("a")
                    self.refused(guard)
        self.assertEqual(taken, [0, 1, 2, 3])


class RunningCalls(Case):
    def test_a_sync_call_hears_of_its_halt_and_ends_by_itself(self):
        guard = self.guard(agent="a")
        heard, told = threading.Event(), []

        def on_halt(error):
            told.append(error.reason)
            heard.set()

        @guard(on_halt=on_halt)
        def tool():
            self.host.halt("a", "while it ran")
            return heard.wait(PATIENCE)

        self.assertTrue(tool())
        self.assertEqual(told, ["while it ran"])
        with self.assertRaises(AgentHalted):
            tool()

    def test_a_call_that_asks_learns_of_its_halt(self):
        guard = self.guard()
        with guard.call("a", tool="loop") as call, guard.call("b", tool="other") as other:
            self.host.halt("a")
            eventually(lambda: call.is_halted)
            self.assertFalse(other.is_halted)

    def test_a_failing_callback_hurts_nobody(self):
        guard = self.guard(on_halt=lambda error: 1 / 0)
        with guard.call("a") as call:
            self.host.halt("a")
            eventually(lambda: call.halted)
        self.host.reset("a")
        self.allowed(guard, "a")

    def test_an_async_call_is_cancelled_and_raises_the_halt(self):
        guard = self.guard(agent="a")
        undone = []

        @guard
        async def tool():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                undone.append(True)
                raise

        async def main():
            task = asyncio.ensure_future(tool())
            await asyncio.sleep(0)
            await guard.settled()
            while not guard._running._calls:
                await asyncio.sleep(0)
            self.host.halt("a", "now")
            with self.assertRaisesRegex(AgentHalted, "now"):
                await task
            # The task that catches the halt goes on as any other.
            self.assertFalse(task.cancelled())

        asyncio.run(main())
        self.assertEqual(undone, [True])

    def test_the_catching_task_is_not_left_cancelled(self):
        guard = self.guard()

        async def main():
            await guard.settled()
            with self.assertRaises(AgentHalted):
                async with guard.call("a"):
                    self.host.halt("a")
                    await asyncio.sleep(60)
            await asyncio.sleep(0.01)
            task = asyncio.current_task()
            self.assertEqual(task.cancelling() if hasattr(task, "cancelling") else 0, 0)
            return "went on"

        self.assertEqual(asyncio.run(main()), "went on")

    def test_a_tool_that_swallows_the_cancellation_raises_all_the_same(self):
        guard = self.guard()

        async def main():
            await guard.settled()
            with self.assertRaises(AgentHalted):
                async with guard.call("a"):
                    self.host.halt("a")
                    try:
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        pass

        asyncio.run(main())

    def test_the_cancellation_of_others_stays_a_cancellation(self):
        guard = self.guard()

        async def tool():
            async with guard.call("a"):
                await asyncio.sleep(60)

        async def main():
            await guard.settled()
            task = asyncio.ensure_future(tool())
            while not guard._running._calls:
                await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        self.assertFalse(guard._running._calls)

    def test_a_halt_just_after_the_end_cancels_nothing(self):
        guard = self.guard()

        async def main():
            await guard.settled()
            for at in range(50):
                agent = f"a{at}"
                async with guard.call(agent):
                    thread = threading.Thread(target=self.host.halt, args=(agent,))
                    thread.start()
                thread.join()
                while not guard.is_halted(agent):
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)

        try:
            asyncio.run(main())
        except AgentHalted:
            # The halt may also have come in time: then, and only then, this is what is raised.
            pass


if __name__ == "__main__":
    unittest.main()
