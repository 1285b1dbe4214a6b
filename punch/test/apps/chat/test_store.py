"""The history on the disk: what is kept, found and erased, and files that can't be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.conversations import DAY, believed_time
from punch.apps.chat.model import ChatMessage, MessageState
from punch.apps.chat.protocol import MAX_KNOWN, MessageReceived
from punch.apps.chat.store import (
    PAGE,
    Store,
    folded,
)
from punch.test.apps.chat.chat_network import peer_id

BOB, EVE = peer_id(2), peer_id(3)
OURS, THEIRS = b"ours" * 2, b"them" * 2


def texts(messages: Sequence[ChatMessage]) -> list[str]:
    return [message.text for message in messages]


class StoreTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "below" / "history.sqlite"
        self.store = self.open()
        self.addCleanup(lambda: self.store.close())

    def open(self) -> Store:
        """The file, without the wait for the disk that keeps it through a power failure."""
        store = Store(self.path)
        store.database.rows("PRAGMA synchronous = OFF")
        return store

    def reopen(self) -> Store:
        """As after a restart."""
        self.store.close()
        self.store = self.open()
        return self.store

    def say(self, text: str, peer: object = None, time: float = 1.0) -> ChatMessage:
        return self.store.add(BOB if peer is None else EVE, OURS, text, time)

    def hear(self, *messages: tuple[int, str], epoch: bytes = THEIRS, time: float = 1.0) -> list[str]:
        self.store.record(BOB, OURS)
        incoming = [MessageReceived(identity, text) for identity, text in messages]
        return texts(self.store.receive(BOB, epoch, incoming, time))


class KeepingTests(StoreTestCase):
    """One side's part of the protocol."""

    def test_ids_go_on_after_a_restart(self) -> None:
        first = self.store.add(BOB, OURS, "one", 1.5, "mine")
        self.assertEqual((first.id, first.state, first.client_id), (1, MessageState.WAITING, "mine"))
        self.reopen()
        self.assertEqual(self.say("two").id, 2)
        record = self.store.record(BOB, b"another!")
        self.assertEqual((record.epoch, record.sent, record.known), (OURS, 2, []))
        self.assertEqual(
            [(m.id, m.text, m.client_id) for m in record.waiting], [(1, "one", "mine"), (2, "two", None)]
        )

    def test_once_and_in_order(self) -> None:
        self.assertEqual(self.hear((1, "a"), (2, "b")), ["a", "b"])
        self.assertEqual(self.hear((2, "b again"), (3, "c"), (1, "a again")), ["c"])
        self.reopen()
        self.assertEqual(self.hear((1, "a"), (2, "b"), (3, "c")), [])
        self.assertEqual(texts(self.store.history(BOB)), ["a", "b", "c"])

    def test_a_new_epoch_counts_anew(self) -> None:
        self.hear((7, "old"))
        self.store.delivered_here(BOB, THEIRS, 7)
        self.assertEqual(self.hear((1, "new"), epoch=b"restored"), ["new"])
        newest, _ = self.store.record(BOB, OURS).known
        self.assertEqual((newest.epoch, newest.delivered, newest.read), (b"restored", 0, 0))
        self.store.delivered_here(BOB, THEIRS, 9)
        self.assertEqual(self.store.record(BOB, OURS).known[0].delivered, 0)

    def test_back_in_an_earlier_epoch(self) -> None:
        self.hear((7, "old"))
        self.store.delivered_here(BOB, THEIRS, 7)
        self.hear((1, "new"), epoch=b"restored")
        self.reopen()
        self.assertEqual(self.hear((7, "old"), (8, "older")), ["older"])
        self.assertEqual(self.hear((1, "new"), (2, "newer"), epoch=b"restored"), ["newer"])
        known = self.store.record(BOB, OURS).known
        self.assertEqual(
            [(k.epoch, k.delivered, k.stored) for k in known], [(b"restored", 0, 2), (THEIRS, 7, 8)]
        )
        self.assertEqual(
            [(epoch, m.text) for epoch, m in self.store.undelivered_here()],
            [(b"restored", "new"), (THEIRS, "older"), (b"restored", "newer")],
        )

    def test_ever_more_epochs(self) -> None:
        """A peer with ever new epochs makes no table grow, and no epoch of another peer is forgotten."""
        self.store.record(EVE, OURS)
        self.store.receive(EVE, THEIRS, [MessageReceived(1, "eve")], 1.0)
        epochs = [b"epoch%3d" % number for number in range(3 * MAX_KNOWN)]
        for epoch in epochs:
            self.assertEqual(self.hear((1, "a"), epoch=epoch), ["a"])
        known = [k.epoch for k in self.store.record(BOB, OURS).known]
        self.assertEqual(known, epochs[: -MAX_KNOWN - 1 : -1])
        self.assertEqual(self.hear((1, "a"), epoch=epochs[-MAX_KNOWN]), [])
        self.assertEqual(self.hear((1, "a"), epoch=epochs[0]), ["a"])
        self.assertEqual(self.store.database.row("SELECT count(*) FROM epoch"), (MAX_KNOWN + 1,))
        self.assertEqual([k.epoch for k in self.store.record(EVE, OURS).known], [THEIRS])

    def test_what_no_view_had(self) -> None:
        self.hear((1, "a"), (2, "b"))
        self.store.delivered_here(BOB, THEIRS, 1)
        self.reopen()
        self.assertEqual([(epoch, m.text) for epoch, m in self.store.undelivered_here()], [(THEIRS, "b")])
        self.store.delivered_here(BOB, THEIRS, 2)
        self.assertEqual(self.store.undelivered_here(), [])

    def test_marks(self) -> None:
        for number in range(1, PAGE + 3):
            self.say(str(number))
        self.assertEqual(len(self.store.delivered_there(BOB, PAGE + 1)), PAGE)
        self.assertEqual(texts(self.store.delivered_there(BOB, PAGE + 1)), [str(PAGE + 1)])
        self.assertEqual(self.store.delivered_there(BOB, PAGE + 1), [])
        self.assertEqual(
            [(m.text, m.state) for m in self.store.read_there(BOB, 2)],
            [("1", MessageState.READ), ("2", MessageState.READ)],
        )
        self.assertEqual(self.store.waiting()[BOB][0], 1)
        self.assertEqual(texts(self.store.waiting_for(BOB)), [str(PAGE + 2)])
        self.assertEqual(self.store.read_there(BOB, PAGE + 9)[-1].text, str(PAGE + 1))

    def test_reading_here(self) -> None:
        self.hear((5, "a"), (6, "b"), (9, "c"))
        second = self.store.history(BOB)[1]
        changed, seen = self.store.read_here(BOB, second.number)
        self.assertEqual(
            (texts(changed), seen, changed[0].state), (["a", "b"], {THEIRS: 6}, MessageState.READ)
        )
        self.assertEqual(self.store.overviews()[0].unread, 1)
        self.assertEqual(self.store.record(BOB, OURS).known[0].read, 6)
        self.assertEqual(self.store.read_here(BOB, None)[1], {THEIRS: 9})
        self.assertEqual(self.store.read_here(BOB, None), ([], {}))

    def test_reading_what_came_in_an_older_epoch(self) -> None:
        """Its ids mean nothing to the peer of today, but may to that of tomorrow."""
        self.hear((70, "old"))
        self.hear((1, "new"), epoch=b"restored")
        self.assertEqual(self.store.read_here(BOB, None)[1], {THEIRS: 70, b"restored": 1})
        self.assertEqual([k.read for k in self.store.record(BOB, OURS).known], [1, 70])

    def test_all_or_nothing(self) -> None:
        """A batch of which one can't be kept leaves nothing behind."""
        self.store.record(BOB, OURS)
        bad = [MessageReceived(1, "a"), MessageReceived(2, "\ud800")]
        self.assertRaises(UnicodeEncodeError, self.store.receive, BOB, THEIRS, bad, 1.0)
        self.assertEqual(self.hear((1, "a"), (2, "b")), ["a", "b"])

    def test_a_group(self) -> None:
        """Each call of a group succeeds or fails by itself."""
        with self.store.group():
            self.say("one")
            self.assertRaises(UnicodeEncodeError, self.say, "\ud800")
            self.assertEqual(self.say("two").id, 2)
        self.assertEqual(texts(self.reopen().history(BOB)), ["one", "two"])

    def test_a_crash_in_a_group(self) -> None:
        self.say("before")
        group = self.store.group()
        group.__enter__()
        self.say("never on the disk")
        disk = sqlite3.connect(self.path)
        self.addCleanup(disk.close)
        self.assertEqual(disk.execute("SELECT text FROM message").fetchall(), [("before",)])
        group.__exit__(None, None, None)
        self.assertEqual(len(disk.execute("SELECT text FROM message").fetchall()), 2)


class LookingTests(StoreTestCase):
    """History, search, export."""

    def test_pages(self) -> None:
        numbers = [self.say(str(n)).number for n in range(10)]
        self.say("to eve", EVE)
        self.assertEqual(texts(self.store.history(BOB, limit=3)), ["7", "8", "9"])
        self.assertEqual(texts(self.store.history(BOB, before=numbers[7], limit=2)), ["5", "6"])
        self.assertEqual(texts(self.store.history(BOB, after=numbers[1], limit=2)), ["2", "3"])
        self.assertEqual(texts(self.store.history(BOB, after=numbers[1], before=numbers[3])), ["2"])
        self.assertEqual(self.store.history(peer_id(9)), [])
        self.assertEqual(texts(self.store.history(None, after=numbers[8])), ["9", "to eve"])
        self.assertEqual(texts(self.store.history(BOB, after=0, limit=1)), ["0"])

    def test_search(self) -> None:
        for text in ("Hello World", "ΣΊΣΥΦΟΣ", "cafe\u0301", "100% _sure_", "it's", "Straße", "hello again"):
            self.say(text)
        self.say("hello eve", EVE)
        cases = {
            "hello": ["hello eve", "hello again", "Hello World"],
            "O W": ["Hello World"],
            "σίσυφοσ": ["ΣΊΣΥΦΟΣ"],
            "CAFÉ": ["cafe\u0301"],
            "%": ["100% _sure_"],
            "'s": ["it's"],
            "STRASSE": ["Straße"],
            "": [],
            "nothing": [],
            '" OR 1=1': [],
        }
        for wanted, found in cases.items():
            self.assertEqual(texts(self.store.search(wanted)), found, wanted)
        self.assertEqual(texts(self.store.search("hello", BOB)), ["hello again", "Hello World"])
        newest = self.store.search("hello", limit=1)[0]
        self.assertEqual(texts(self.store.search("hello", before=newest.number, limit=1)), ["hello again"])

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
        st.text(st.characters(codec="utf-8"), max_size=10),
    )
    def test_everything_finds_itself(self, wanted: str, around: str) -> None:
        self.assertIn(folded(wanted), folded(wanted) + folded(around))
        store = Store(None)
        self.addCleanup(store.close)
        store.add(BOB, OURS, wanted, 1.0)
        found = texts(store.search(wanted))
        self.assertEqual(found, [wanted] if folded(wanted) else [])

    def test_overviews(self) -> None:
        self.say("mine")
        self.hear((1, "a"), (2, "b"))
        self.say("eve's", EVE)
        found = {overview.peer: overview for overview in self.store.overviews()}
        self.assertEqual(
            (found[BOB].unread, found[BOB].waiting, found[BOB].last), (2, 1, self.store.history(BOB)[-1])
        )
        self.assertEqual((found[EVE].unread, found[EVE].waiting), (0, 1))
        self.assertEqual(self.store.overviews(peer_id(9)), [])


class ErasingTests(StoreTestCase):
    """What is not kept."""

    def on_disk(self) -> bytes:
        """All that is in the file and beside it."""
        return b"".join(file.read_bytes() for file in self.path.parent.iterdir())

    def test_nothing_stays_in_the_file(self) -> None:
        for number in range(300):
            self.say(f"Secret-{number} " + "x" * 500)
        self.assertIn(b"Secret-7 ", self.on_disk())
        size = self.path.stat().st_size
        self.assertEqual(self.store.erase(BOB), 300)
        self.assertNotIn(b"ecret-", self.on_disk())
        self.assertLess(self.path.stat().st_size, size // 3)

    def test_ids_are_not_used_again(self) -> None:
        self.say("one")
        self.hear((1, "a"))
        self.store.erase()
        self.assertEqual(self.say("two").id, 2)
        self.assertEqual(self.hear((1, "a again")), [])
        self.assertEqual(self.store.undelivered_here(), [])

    def test_one_or_all(self) -> None:
        self.say("one")
        number = self.say("two", EVE).number
        self.assertEqual(self.store.erase(BOB), 1)
        self.assertEqual(texts(self.store.history(None)), ["two"])
        self.assertEqual(self.store.erase(), 1)
        self.assertGreater(self.say("three").number, number)

    def test_retention(self) -> None:
        self.assertIsNone(self.store.retention())
        self.store.set_retention(30)
        self.assertEqual(self.reopen().retention(), 30.0)
        self.store.set_retention(None)
        self.assertIsNone(self.store.retention())
        self.hear(*((n, str(n)) for n in range(1, PAGE + 2)), time=10.0)
        self.store.delivered_here(BOB, THEIRS, PAGE + 1)
        self.say("waits", time=10.0)
        self.say("new", time=20.0)
        self.assertEqual([self.store.expire(15.0) for _ in range(3)], [PAGE, 1, 0])
        self.assertEqual(texts(self.store.history(BOB)), ["waits", "new"])

    def test_wrong_clocks_erase_nothing(self) -> None:
        """A jump forward is believed when the clock has gone on for a day, also over restarts."""
        start, year = 1_000_000.0, 365 * DAY
        self.say("new", time=start)
        self.assertEqual(believed_time(self.store, start + 60.0), start + 60.0)
        self.assertEqual(believed_time(self.store, start + year), start + 60.0)
        self.assertEqual(believed_time(self.reopen(), start + year + 3600.0), start + 60.0)
        self.assertEqual(believed_time(self.store, start + 7200.0), start + 7200.0)
        self.assertEqual(believed_time(self.store, start + year), start + 7200.0)
        self.assertEqual(believed_time(self.reopen(), start + year + DAY), start + year + DAY)
        self.assertEqual(believed_time(self.store, start), start)

    def test_first_look_at_an_old_file(self) -> None:
        self.say("new", time=1_000_000.0)
        self.assertEqual(believed_time(self.store, 1_000_000.0 + 365 * DAY), 1_000_000.0)

    def test_a_machine_that_is_used_once_a_week(self) -> None:
        """On a machine that is used once a week, old messages are erased a week later."""
        times = [1_000_000.0 + week * 7 * DAY for week in range(4)]
        self.assertEqual([believed_time(self.store, time) for time in times], [times[0], *times[:3]])

    def test_what_no_view_had_is_kept(self) -> None:
        """Else it would never be had, and its sender would wait for the mark for ever."""
        self.hear((1, "had"), (2, "not had"), time=10.0)
        self.store.delivered_here(BOB, THEIRS, 1)
        self.hear((1, "not had either"), epoch=b"restored", time=10.0)
        self.assertEqual(self.store.expire(15.0), 1)
        self.assertEqual(
            [message.text for _, message in self.store.undelivered_here()], ["not had", "not had either"]
        )
        self.store.delivered_here(BOB, b"restored", 1)
        self.store.delivered_here(BOB, THEIRS, 2)
        self.assertEqual(self.store.expire(15.0), 2)


class MessageTests(SynchronousTestCase):
    def test_what_the_store_gives_is_what_it_was_given(self) -> None:
        store = Store(None)
        self.addCleanup(store.close)
        said = store.add(BOB, OURS, "\u202eevil \x1b[31m <b>\0", 12.5, 7)
        self.assertEqual(store.history(BOB), [said])
        (heard,) = store.receive(BOB, THEIRS, [MessageReceived(1, "x", 3.5)], 4.0)
        self.assertEqual(store.history(BOB), [said, heard])
        self.assertEqual(replace(heard, state=MessageState.READ), store.read_here(BOB, None)[0][0])
