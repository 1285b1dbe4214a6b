"""What is remembered of paths, and how the address book keeps it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from punch.contact_entries import (
    MAX_PATHS,
    MAX_TECHNIQUES,
    MAX_TRIES,
    LearnedPath,
    decode_paths,
    encode_paths,
    is_worth_trying,
    nats_key,
    network_key,
    path_of,
    with_path,
    with_result,
)
from punch.contacts import AddressBook
from punch.ice.punching.techniques import Technique
from punch.identity import Identity, PeerID
from punch.node.paths.path_memory import PathMemory
from punch.sentences import sentence_of
from punch.wire.peers.nat_profile import Mapping, NatProfile, PortAssignment

PATH = LearnedPath("here", "203.0.113.1", "srflx", "ice", 20000)
PEER: PeerID = Identity.generate(lambda size: b"\x11" * size).peer_id


class MemoryTests(SynchronousTestCase):
    """What a node makes of what happens."""

    def test_a_step_that_becomes_surer(self) -> None:
        """It is the same NAT, so what failed there is not begun anew; another mapping is another NAT."""
        book = AddressBook(None)
        book.add(PEER, "bob")
        memory = PathMemory(book, lambda: "here", lambda: 86400.0)
        theirs = NatProfile("203.0.113.1")
        mapping = frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT})
        ours = [
            NatProfile("203.0.113.2", mapping, PortAssignment.SEQUENTIAL, step, 1, 5) for step in (8, 4, 2)
        ]
        for number, profile in enumerate(ours):
            self.assertTrue(memory.is_worth_trying(PEER, Technique.PREDICTION, profile, theirs), number)
            memory.tried(PEER, Technique.PREDICTION, profile, theirs, found=False)
        self.assertFalse(memory.is_worth_trying(PEER, Technique.PREDICTION, ours[0], theirs))
        by_address = replace(ours[0], mapping=frozenset({Mapping.ADDRESS_DEPENDENT}))
        self.assertTrue(memory.is_worth_trying(PEER, Technique.PREDICTION, by_address, theirs))

    def test_what_was_over_tcp(self) -> None:
        """The last path counts, not what failed at another address since then."""
        book = AddressBook(None)
        book.add(PEER, "bob")
        memory = PathMemory(book, lambda: "here", lambda: 86400.0)
        theirs = NatProfile("203.0.113.1")
        self.assertFalse(memory.was_over_tcp(PEER))
        memory.worked(PEER, "here", "2001:db8::1", "prflx", Technique.TCP)
        self.assertTrue(memory.was_over_tcp(PEER))
        memory.tried(PEER, Technique.PREDICTION, theirs, theirs, found=False)
        self.assertTrue(memory.was_over_tcp(PEER))
        memory.worked(PEER, "here", "203.0.113.1", "prflx", Technique.PREDICTION)
        self.assertFalse(memory.was_over_tcp(PEER))

    def test_what_can_not_be_kept(self) -> None:
        """The log has the sentence of the error, with what the user can do."""
        directory = Path(self.mktemp())
        directory.mkdir()
        book = AddressBook(directory / "peers.json")
        book.add(PEER, "bob")
        memory = PathMemory(book, lambda: "here", lambda: 86400.0, sentence_of)
        (directory / "peers.json").unlink()
        (directory / "peers.json").mkdir()
        with capturedLogs() as logged:
            memory.worked(PEER, "here", "203.0.113.1", "prflx", Technique.ICE)
        (event,) = logged
        self.assertTrue(str(event["error"]).endswith("."), event["error"])
        self.assertIn(str(directory / "peers.json"), formatEvent(event))

    def test_what_is_written_again(self) -> None:
        """Another direct kind of path is no news; a relay, another technique and another day are."""
        book = AddressBook(None)
        book.add(PEER, "bob")
        day = 1
        memory = PathMemory(book, lambda: "here", lambda: day * 86400.0)
        kinds = []
        for kind, technique in (
            ("srflx", Technique.ICE),
            ("prflx", Technique.ICE),
            ("prflx", Technique.PREDICTION),
            ("host", Technique.PREDICTION),
            ("relay", Technique.RELAY),
            ("host", Technique.ICE),
        ):
            memory.worked(PEER, "here", "203.0.113.1", kind, technique)
            (path,) = book.entry(PEER).paths
            kinds.append(path.kind)
            self.assertEqual(path.technique, technique.value)
        self.assertEqual(kinds, ["srflx", "srflx", "prflx", "prflx", "relay", "host"])
        day = 2
        memory.worked(PEER, "here", "203.0.113.1", "srflx", Technique.ICE)
        self.assertEqual([(path.kind, path.day) for path in book.entry(PEER).paths], [("srflx", 2)])


class PathTests(SynchronousTestCase):
    """The values."""

    def test_the_newest_are_kept(self) -> None:
        """One for each pair of networks."""
        paths: tuple[LearnedPath, ...] = ()
        for day in range(3 * MAX_PATHS):
            paths = with_path(paths, LearnedPath("here", f"203.0.113.{day % 7}", "srflx", "ice", day))
        self.assertEqual([path.day for path in paths], list(range(2 * MAX_PATHS, 3 * MAX_PATHS)))
        self.assertEqual(path_of(paths, "here", paths[0].host), paths[0])
        self.assertIsNone(path_of(paths, "there", paths[0].host))

    def test_networks(self) -> None:
        """Told by their public address and the prefix of ours."""
        names = {
            network_key("203.0.113.1", "192.168.1.2"),
            network_key("203.0.113.2", "192.168.1.2"),
            network_key("203.0.113.1", "192.168.2.2"),
            network_key("203.0.113.1", "2001:db8:1::2"),
            network_key("203.0.113.1", "2001:db8:1:1::2"),
        }
        self.assertEqual(len(names), 5)
        self.assertEqual(network_key("203.0.113.1", "192.168.1.7"), network_key("203.0.113.1", "192.168.1.2"))
        self.assertIn(network_key("203.0.113.1", "2001:db8:1:0:5::7"), names)
        self.assertTrue(all(name.isalnum() and len(name) == 16 for name in names))

    def test_a_technique_that_never_works(self) -> None:
        """It rests for a day after so many links, unless the NATs are others, or it works after all."""
        path, nats = PATH, nats_key("a", "b")
        for tries in range(MAX_TRIES):
            self.assertTrue(is_worth_trying(path, "prediction", nats, 20000), tries)
            path = with_result(path, "prediction", nats, 20000, found=False)
        self.assertFalse(is_worth_trying(path, "prediction", nats, 20000))
        self.assertFalse(is_worth_trying(path, "prediction", nats, 20001))
        self.assertTrue(is_worth_trying(path, "prediction", nats, 20002))
        self.assertTrue(is_worth_trying(path, "prediction", nats, 19999), "the clock was set back")
        self.assertTrue(is_worth_trying(path, "prediction", nats_key("a", "c"), 20000))
        self.assertTrue(is_worth_trying(path, "spraying", nats, 20000))
        self.assertTrue(is_worth_trying(None, "prediction", nats, 20000))
        again = with_result(path, "prediction", nats, 20002, found=False)
        self.assertFalse(is_worth_trying(again, "prediction", nats, 20002))
        found = with_result(path, "prediction", nats, 20000, found=True)
        self.assertEqual(found, PATH)
        other = with_result(path, "prediction", nats_key("a", "c"), 20000, found=False)
        self.assertEqual([each.times for each in other.failures], [1])

    def test_few_techniques(self) -> None:
        path = PATH
        for number in range(3 * MAX_TECHNIQUES):
            path = with_result(path, f"technique {number}", "nats", 20000, found=False)
        self.assertEqual(len(path.failures), MAX_TECHNIQUES)

    def test_read_again(self) -> None:
        path = with_result(PATH, "prediction", nats_key(1, 2), 20001, found=False)
        self.assertEqual(decode_paths(json.loads(json.dumps(encode_paths([PATH, path])))), (PATH, path))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=80),
            lambda inner: (
                st.lists(inner, max_size=5)
                | st.dictionaries(
                    st.sampled_from(["network", "host", "kind", "technique", "day", "failures"]), inner
                )
            ),
            max_leaves=20,
        )
    )
    @settings(derandomize=True, deadline=None, max_examples=200)
    def test_anything_else_is_left_out(self, value: object) -> None:
        """Whatever stands in a file."""
        for content in (value, [value], [*encode_paths([PATH]), value]):
            paths = decode_paths(content)
            self.assertLessEqual(len(paths), MAX_PATHS)
            self.assertEqual(decode_paths(encode_paths(paths)), paths)


class BookTests(SynchronousTestCase):
    """In the address book."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp()) / "known.json"
        self.book = AddressBook(self.file)

    def test_kept_and_erased(self) -> None:
        """With the contact: nothing of it is left in the file."""
        self.book.add(PEER, "peer")
        self.assertTrue(self.book.learn(PEER, PATH))
        self.assertFalse(self.book.learn(PEER, PATH), "nothing is written if nothing is new")
        self.assertEqual(AddressBook(self.file).entry(PEER).paths, (PATH,))
        self.assertIn(PATH.host, self.file.read_text())
        self.book.forget(PEER)
        self.assertNotIn(PATH.host, self.file.read_text())
        self.book.add(PEER, "peer")
        self.assertEqual(self.book.entry(PEER).paths, ())

    def test_strangers(self) -> None:
        """Nothing is kept of who is not known, blocked or not."""
        self.assertFalse(self.book.learn(PEER, PATH))
        self.book.block(PEER)
        self.assertFalse(self.book.learn(PEER, PATH))
        self.assertEqual(self.book.entry(PEER).paths, ())

    def test_damaged(self) -> None:
        """What can't be read of it is learned again; the rest of the book is as it was."""
        self.book.add(PEER, "peer")
        self.book.learn(PEER, PATH)
        content = json.loads(self.file.read_text())
        damages: list[object] = ["x", [1], [{"network": 1}], {"a": "b"}, [[]] * 100]
        for damaged in damages:
            content["peers"][str(PEER)]["paths"] = damaged
            self.file.write_text(json.dumps(content))
            entry = AddressBook(self.file).entry(PEER)
            self.assertEqual((entry.paths, entry.known, entry.name), ((), True, "peer"))

    def test_a_change_of_another_process(self) -> None:
        """What one process learns does not undo what another one changes."""
        self.book.add(PEER, "peer")
        other = AddressBook(self.file)
        other.grant(PEER, "files/1")
        self.book.learn(PEER, PATH)
        entry = AddressBook(self.file).entry(PEER)
        self.assertEqual((entry.paths, entry.services), ((PATH,), frozenset({"files/1"})))
