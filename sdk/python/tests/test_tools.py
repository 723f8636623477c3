"""Tools of agent frameworks, by their shape."""

import asyncio
import contextvars
import unittest
from concurrent.futures import ThreadPoolExecutor

from phronis_guard import AgentHalted

from .fake_host import PATIENCE, HostCase, eventually


class LikeLangChain:
    """Methods that call each other, in other threads and contexts, as LangChain's `BaseTool` does."""

    name = "search"

    def __setattr__(self, name, value):
        raise ValueError(f"{name} is not a field")

    def invoke(self, input, config=None):
        return self.run(input)

    async def ainvoke(self, input, config=None):
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(None, lambda: context.run(self.invoke, input))

    def run(self, query):
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(context.run, self._run, query).result()

    def _run(self, query):
        return f"found {query}"


class WithSlots:
    __slots__ = ("seen",)

    def __init__(self):
        self.seen = []

    def run(self, query):
        self.seen.append(query)
        return query


class Tools(HostCase):
    def setUp(self):
        super().setUp()
        self.guard = self.guard(agent="a")

    def halt(self, agent="a"):
        self.host.halt(agent)
        eventually(lambda: self.guard.is_halted(agent))

    def test_each_way_in_is_guarded_and_counts_once(self):
        plain = LikeLangChain()
        tool = self.guard(plain)
        self.assertIsInstance(tool, LikeLangChain)
        ways = [
            lambda: tool.invoke("x"), lambda: asyncio.run(tool.ainvoke("x")), lambda: tool.run("x"), lambda: tool._run("x"),
        ]  # fmt: skip
        self.assertEqual([way() for way in ways], ["found x"] * 4)
        self.assertTrue(self.guard.flush(PATIENCE))
        self.assertEqual([call["metadata"]["tool"] for call in self.host.calls()], ["search"] * 4)
        self.halt()
        for way in ways:
            with self.assertRaises(AgentHalted):
                way()
        self.assertEqual(plain.invoke("x"), "found x", "the tool itself stays as it is")

    def test_a_call_inside_of_a_call_is_checked_as_well(self):
        test = self

        class Recursive:
            def invoke(self, depth):
                if depth == 2:
                    test.halt()
                return tool.invoke(depth + 1) if depth < 5 else "bottom"

        tool = self.guard(Recursive())
        with self.assertRaises(AgentHalted):
            tool.invoke(0)

    def test_a_tool_that_takes_no_attributes_is_guarded_too(self):
        plain = WithSlots()
        tool = self.guard.wrap(plain, tool="slotted")
        self.assertEqual((tool.run("x"), tool.seen), ("x", ["x"]))
        self.halt()
        with self.assertRaises(AgentHalted):
            tool.run("y")
        self.assertEqual(plain.seen, ["x"])

    def test_the_agent_may_stand_in_the_input(self):
        tool = self.guard(agent=lambda input, config=None: input["agent"])(LikeLangChain())
        self.halt("bad")
        self.assertEqual(tool.invoke({"agent": "good"}), "found {'agent': 'good'}")
        with self.assertRaises(AgentHalted):
            tool.invoke({"agent": "bad"})


if __name__ == "__main__":
    unittest.main()
