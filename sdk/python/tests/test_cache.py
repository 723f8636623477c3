"""What the guard decides, without a host, a thread or a clock of its own."""

import unittest
from datetime import datetime, timezone

from phronis_guard.cache import Cache, ProtocolError, _micros
from phronis_guard.sse import Parser


class Clock:
    def __init__(self):
        self.mono = 100.0


def cache(policy="last_known", stale_after=None):
    clock = Clock()
    return Cache(policy, stale_after, now=lambda: clock.mono), clock


def snapshot(*halted, version=0, epoch="e"):
    return {"epoch": epoch, "version": version, "halted": list(halted)}


def entry(agent, state="halted", **more):
    return {"agent": agent, "state": state, "reason": "r", "actor": "ops", "at": None, "expires_at": None, **more}


def change(version, agent, state="halted", epoch="e", **more):
    return {"epoch": epoch, "version": version, **entry(agent, state, **more)}


def beat(version=0, at=None, epoch="e"):
    return {"epoch": epoch, "version": version, "at": at}


class Decisions(unittest.TestCase):
    def allows(self, cache, agent):
        until, halted = cache.fast
        is_fast = agent not in halted and cache._now() < until
        is_allowed = cache.refusal(agent) is None
        self.assertFalse(is_fast and not is_allowed, "the fast path allows what is refused")
        return is_allowed

    def test_what_holds_while_the_host_is_not_heard(self):
        # policy, stale_after → (never seen, heard just now, heard 2.9 s ago, heard 3.1 s ago, heard an hour ago)
        for policy, stale_after, allowed in [
            ("last_known", None, (False, True, True, True, True)),
            ("last_known", 60.0, (False, True, True, True, False)),
            ("fail_open", None, (True, True, True, True, True)),
            ("fail_closed", None, (False, True, True, False, False)),
            ("fail_closed", 60.0, (False, True, True, True, False)),
        ]:
            state, clock = cache(policy, stale_after)
            got = [self.allows(state, "a")]
            state.snapshot(snapshot(entry("halted")))
            for age in (0.0, 2.9, 3.1, 3600.0):
                clock.mono = 100.0 + age
                got.append(self.allows(state, "a"))
                self.assertFalse(self.allows(state, "halted"), "a known halt holds under each policy")
            self.assertEqual(tuple(got), allowed, (policy, stale_after))

    def test_a_halt_comes_and_goes(self):
        state, _ = cache()
        self.assertEqual(set(state.snapshot(snapshot(entry("a"), version=7))), {"a"})
        self.assertEqual(set(state.change(change(8, "b", reason="loops"))), {"b"})
        error = state.refusal("b")
        self.assertEqual((error.agent_id, error.reason, error.actor), ("b", "loops", "ops"))
        self.assertEqual(state.change(change(9, "b", reason="again")), {}, "already halted: nothing begins")
        state.change(change(10, "a", "running"))
        self.assertTrue(self.allows(state, "a"))
        self.assertFalse(self.allows(state, "b"))

    def test_a_tenants_halt_refuses_everyone_and_leaves_the_others_halts(self):
        state, _ = cache()
        state.snapshot(snapshot(entry("a")))
        self.assertEqual(set(state.change(change(1, None, reason="stop all"))), {""})
        self.assertEqual(state.refusal("z").reason, "stop all")
        state.change(change(2, None, "running"))
        self.assertTrue(self.allows(state, "z"))
        self.assertFalse(self.allows(state, "a"))

    def test_expiry_follows_the_hosts_clock_and_no_local_one_that_jumps(self):
        state, clock = cache()
        host = 2_000_000_000_000_000
        state.snapshot(snapshot(entry("a", expires_at=host + 10_000_000)))
        clock.mono += 1e6
        self.assertFalse(self.allows(state, "a"), "nothing ends by a clock that is not known")
        state.beat(beat(at=host))
        self.assertFalse(self.allows(state, "a"))
        clock.mono += 9.9
        self.assertFalse(self.allows(state, "a"))
        clock.mono += 0.1
        self.assertTrue(self.allows(state, "a"))

    def test_expiry_before_the_first_beat_follows_the_snapshots_clock(self):
        state, clock = cache()
        known = snapshot(entry("a", expires_at="2023-11-14T22:13:21Z"), entry("b", state="unheard-of"))
        state.snapshot({**known, "at": "2023-11-14T22:13:20Z"})
        self.assertFalse(self.allows(state, "a"))
        self.assertFalse(self.allows(state, "b"), "a state that is not known counts as halted")
        clock.mono += 1.0
        self.assertTrue(self.allows(state, "a"))

    def test_what_does_not_follow_is_refused_and_changes_nothing(self):
        for broken in [
            change(9, "a"), change(7, "a"), change(8, "a", epoch="f"), change(8, ""), change(8, 5),
            {"epoch": "e", "version": 8}, {**change(8, "a"), "version": True}, {**change(8, "a"), "expires_at": "soon"},
            [], None, "x", 7, {},
        ]:  # fmt: skip
            state, _ = cache()
            state.snapshot(snapshot(version=7))
            with self.assertRaises(ProtocolError, msg=broken):
                state.change(broken)
            self.assertTrue(self.allows(state, "a"))
        for broken in [beat(8), beat(6), beat(7, epoch="f"), None, {}]:
            with self.assertRaises(ProtocolError, msg=broken):
                state.beat(broken)
        for broken in [None, [], {}, snapshot(version=-1), {**snapshot(), "halted": None}, snapshot(7), snapshot({"agent": "a"})]:
            with self.assertRaises(ProtocolError, msg=broken):
                state.snapshot(broken)
        self.assertEqual(state.version, 7)

    def test_without_a_snapshot_nothing_counts(self):
        state, _ = cache("fail_closed")
        for tell in (state.change, state.beat):
            with self.assertRaises(ProtocolError):
                tell(beat())
        self.assertIsNone(state.age())

    def test_times_of_all_kinds_are_read(self):
        noon = int(datetime(2026, 1, 2, 12, tzinfo=timezone.utc).timestamp() * 1e6)
        for text, micros in [
            ("2026-01-02T12:00:00Z", noon), ("2026-01-02T14:00:00+02:00", noon), (noon, noon),
            ("2026-01-02T12:00:00.5Z", noon + 500_000), ("2026-01-02T12:00:00.123456789Z", noon + 123_456),
            ("soon", None), (True, None), (None, None), (1.5, None), ("", None), ("9999-99-99T00:00:00Z", None),
        ]:  # fmt: skip
            self.assertEqual(_micros(text), micros, text)


class Stream(unittest.TestCase):
    def test_events_do_not_depend_on_where_the_bytes_are_cut(self):
        text = b": hi\n\nevent: beat\r\ndata: {\"a\":\ndata: 1}\nid: 5\n\n\ndata:[2]\n\nevent: x\n\ndata: 3\n\n"
        wanted = [("beat", {"a": 1}), ("", [2]), ("", 3)]
        for size in range(1, len(text) + 1):
            parser = Parser()
            got = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
            self.assertEqual(got, wanted, size)

    def test_an_event_without_end_is_refused_before_it_fills_memory(self):
        for piece in (b"x" * 100, b"data: 1\n" * 20):
            parser = Parser(max_event=1000)
            with self.assertRaises(ProtocolError):
                for _ in range(100):
                    list(parser.feed(piece))

    def test_comments_without_end_fill_nothing(self):
        parser = Parser(max_event=1000)
        for _ in range(1000):
            self.assertEqual(list(parser.feed(b": alive\n")), [])
        self.assertEqual(list(parser.feed(b"data: 1\n\n")), [("", 1)])

    def test_broken_json_is_a_protocol_error(self):
        for data in (b"{", b"\xff", b"[" * 100_000, b"nope"):
            with self.assertRaises(ProtocolError):
                list(Parser().feed(b"data: " + data + b"\n\n"))


if __name__ == "__main__":
    unittest.main()
