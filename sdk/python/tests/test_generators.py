"""Guarded generators are generators: what is sent, thrown, returned and closed comes through."""

import asyncio
import unittest

from phronis_guard import AgentHalted

from .fake_host import HostCase, eventually


class Case(HostCase):
    def setUp(self):
        super().setUp()
        self.guarded = self.guard(agent="a", post_events=False)
        #: What the generator that is guarded went through.
        self.seen = []

    def halt(self):
        self.host.halt("a")
        eventually(lambda: self.guarded.is_halted())


class Generators(Case):
    def items(self):
        """A guarded generator that gives what it is sent."""

        @self.guarded
        def items():
            try:
                got = "first"
                while got != "end":
                    try:
                        got = yield got
                    except KeyError as error:
                        got = f"caught {error}"
                    self.seen.append(got)
                return "the end"
            finally:
                self.seen.append("closed")

        return items()

    def test_what_is_sent_and_thrown_comes_through_and_so_does_what_is_returned(self):
        items = self.items()
        self.assertEqual(next(items), "first")
        self.assertEqual(items.send("sent"), "sent")
        self.assertIsNone(next(items))
        self.assertEqual(items.throw(KeyError("thrown")), "caught 'thrown'")
        with self.assertRaises(StopIteration) as ended:
            items.send("end")
        self.assertEqual(ended.exception.value, "the end")
        self.assertEqual(self.seen, ["sent", None, "caught 'thrown'", "end", "closed"])

    def test_it_can_stand_behind_yield_from(self):
        def outer():
            return (yield from self.items())

        items = outer()
        self.assertEqual([next(items), items.send("sent")], ["first", "sent"])
        with self.assertRaises(StopIteration) as ended:
            items.send("end")
        self.assertEqual(ended.exception.value, "the end")

    def test_what_is_not_caught_and_a_close_end_it(self):
        items = self.items()
        next(items)
        with self.assertRaisesRegex(ValueError, "thrown"):
            items.throw(ValueError("thrown"))
        self.assertEqual(self.seen, ["closed"])
        items = self.items()
        next(items)
        items.close()
        self.assertEqual(self.seen, ["closed", "closed"])
        self.assertEqual(list(items), [])
        self.assertFalse(self.guarded._running._calls, "a call that has ended runs no more")

    def test_a_halt_is_looked_at_before_the_first_step_and_each_further_one(self):
        for step in (next, lambda items: items.send("sent"), lambda items: items.throw(KeyError("thrown"))):
            items = self.items()
            next(items)
            self.halt()
            with self.assertRaises(AgentHalted):
                step(items)
            self.assertEqual(self.seen, ["closed"], "nothing of it ran but what cleans up")
            with self.assertRaises(AgentHalted):
                next(self.items())
            self.assertEqual(self.seen, ["closed"])
            self.host.reset("a")
            eventually(lambda: not self.guarded.is_halted())
            self.seen.clear()


class AsyncGenerators(Case):
    """The same of asynchronous ones, which return nothing."""

    def items(self):
        @self.guarded
        async def items():
            try:
                got = "first"
                while got != "end":
                    await asyncio.sleep(0)
                    try:
                        got = yield got
                    except KeyError as error:
                        got = f"caught {error}"
                    self.seen.append(got)
            finally:
                await asyncio.sleep(0)
                self.seen.append("closed")

        return items()

    def test_what_is_sent_and_thrown_comes_through(self):
        async def main():
            items = self.items()
            self.assertEqual(await items.__anext__(), "first")
            self.assertEqual(await items.asend("sent"), "sent")
            self.assertIsNone(await items.__anext__())
            self.assertEqual(await items.athrow(KeyError("thrown")), "caught 'thrown'")
            with self.assertRaises(StopAsyncIteration):
                await items.asend("end")

        asyncio.run(main())
        self.assertEqual(self.seen, ["sent", None, "caught 'thrown'", "end", "closed"])

    def test_what_is_not_caught_and_a_close_end_it(self):
        async def main():
            items = self.items()
            await items.__anext__()
            with self.assertRaisesRegex(ValueError, "thrown"):
                await items.athrow(ValueError("thrown"))
            self.assertEqual(self.seen, ["closed"])
            items = self.items()
            await items.__anext__()
            await items.aclose()
            self.assertEqual(self.seen, ["closed", "closed"], "it is closed here, and not when the loop finds it")
            self.assertEqual([item async for item in items], [])

        asyncio.run(main())
        self.assertFalse(self.guarded._running._calls, "a call that has ended runs no more")

    def test_a_halt_is_looked_at_before_the_first_step_and_each_further_one(self):
        async def main(step):
            items = self.items()
            await items.__anext__()
            self.halt()
            with self.assertRaises(AgentHalted):
                await step(items)
            self.assertEqual(self.seen, ["closed"], "nothing of it ran but what cleans up")
            with self.assertRaises(AgentHalted):
                await self.items().__anext__()
            self.assertEqual(self.seen, ["closed"])

        for step in (
            lambda items: items.__anext__(), lambda items: items.asend("sent"), lambda items: items.athrow(KeyError("thrown")),
        ):  # fmt: skip
            asyncio.run(main(step))
            self.host.reset("a")
            eventually(lambda: not self.guarded.is_halted())
            self.seen.clear()


if __name__ == "__main__":
    unittest.main()
