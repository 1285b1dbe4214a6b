"""The chat protocol: frames, greetings, marks, farewells, and deafness to nonsense."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.model import MAX_TEXT
from punch.apps.chat.protocol import (
    ACK,
    BYE,
    HELLO,
    MAX_KNOWN,
    MAX_NAME,
    MESSAGE,
    NAME,
    NO_EPOCH,
    READ,
    ByeExchanged,
    ChatCore,
    ChatProtocolError,
    Delivered,
    Event,
    Hello,
    HelloReceived,
    Known,
    MessageReceived,
    Named,
    OutgoingMessage,
    PeerHasRead,
)

OURS = b"ours" * 2
THEIRS = b"them" * 2


def frame(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(2, "big") + body


def number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def message(identity: int, text: bytes, time: int = 0) -> bytes:
    return frame(MESSAGE, number(identity) + number(time) + text)


def ack(identity: int) -> bytes:
    return frame(ACK, number(identity))


def hello(epoch: bytes = THEIRS, *known: bytes) -> bytes:
    return frame(HELLO, epoch + bytes([len(known)]) + b"".join(known))


def knows(epoch: bytes, delivered: int = 0, read: int = 0, stored: int | None = None, time: int = 0) -> bytes:
    """What a hello says of an epoch of the other side."""
    return (
        epoch
        + number(delivered)
        + number(read)
        + number(delivered if stored is None else stored)
        + number(time)
    )


def core(sent: int = 0, waiting: list[OutgoingMessage] | None = None, greeted: bool = True) -> ChatCore:
    made = ChatCore(Hello(OURS), sent, waiting or [])
    made.data_to_send()
    if greeted:
        made.receive_data(hello())
        made.next_event()
    return made


def events(of: ChatCore) -> list[Event]:
    found = []
    while (event := of.next_event()) is not None:
        found.append(event)
    return found


class FrameTests(SynchronousTestCase):
    """What goes over the wire."""

    def test_greets_first_and_repeats_what_has_no_mark(self) -> None:
        known = [Known(THEIRS, 7, 5, 8, 2.001), Known(b"elsewise")]
        made = ChatCore(
            Hello(OURS, known), 3, [OutgoingMessage(2, 1.5, b"two"), OutgoingMessage(3, 2.0, b"three")]
        )
        self.assertEqual(
            made.data_to_send(),
            hello(OURS, knows(THEIRS, 7, 5, 8, 2001), knows(b"elsewise"))
            + message(2, b"two", 1500)
            + message(3, b"three", 2000),
        )
        self.assertEqual(made.data_to_send(), b"")

    def test_what_is_said(self) -> None:
        made = core()
        made.send(OutgoingMessage(1, 3.0, "é".encode()))
        made.acknowledge(4)
        made.read(3)
        made.rename("n" * 100)
        self.assertEqual(
            made.data_to_send(),
            ack(4) + frame(READ, number(3)) + frame(NAME, b"n" * MAX_NAME) + message(1, b"\xc3\xa9", 3000),
        )

    def test_marks_pass_messages_that_wait(self) -> None:
        made = core()
        for identity in (1, 2, 3):
            made.send(OutgoingMessage(identity, 0.0, b"x" * 100))
        made.say_bye()
        made.acknowledge(4)
        self.assertEqual(made.data_to_send(0), ack(4))
        self.assertEqual(made.data_to_send(0), b"")
        self.assertEqual(made.data_to_send(150), message(1, b"x" * 100) + message(2, b"x" * 100))
        for identity in (5, 6):
            made.acknowledge(identity)
            made.read(identity)
        # The newest mark says what the others did; the farewell comes after all messages.
        last = message(3, b"x" * 100) + frame(BYE, b"")
        self.assertEqual(made.data_to_send(), ack(6) + frame(READ, number(6)) + last)

    def test_what_is_heard(self) -> None:
        made = core(
            sent=9, waiting=[OutgoingMessage(8, 0.0, b"a"), OutgoingMessage(9, 0.0, b"b")], greeted=False
        )
        made.receive_data(
            hello() + message(3, b"hi", 2500) + message(4, b"") + ack(8) + frame(READ, number(9))
        )
        self.assertEqual(
            events(made),
            [
                HelloReceived(THEIRS, outdated=False),
                MessageReceived(3, "hi", 2.5),
                MessageReceived(4, "", None),
                Delivered(8),
                Delivered(9),
                PeerHasRead(9),
            ],
        )

    def test_times_that_no_calendar_has(self) -> None:
        made = core()
        made.receive_data(message(1, b"a", 2**62) + message(2, b"b", 253_402_300_799_000))
        self.assertEqual(
            events(made), [MessageReceived(1, "a", None), MessageReceived(2, "b", 253_402_300_799.0)]
        )

    def test_a_hello_marks_what_was_marked_on_an_earlier_stream(self) -> None:
        made = core(
            sent=3, waiting=[OutgoingMessage(2, 0.0, b"a"), OutgoingMessage(3, 0.0, b"b")], greeted=False
        )
        made.receive_data(hello(THEIRS, knows(b"elsewise", 99), knows(OURS, 2, 1)))
        self.assertEqual(events(made), [HelloReceived(THEIRS, outdated=False), Delivered(2), PeerHasRead(1)])

    def test_marks_of_another_epoch_mean_nothing(self) -> None:
        made = core(sent=1, waiting=[OutgoingMessage(1, 0.0, b"a")], greeted=False)
        made.receive_data(hello(THEIRS, knows(b"elsewise", 99)))
        self.assertEqual(events(made), [HelloReceived(THEIRS, outdated=False)])

    def test_who_knows_more_than_we_said(self) -> None:
        """A part of our state is lost: nothing that it marks is believed."""
        made = core(sent=1, waiting=[OutgoingMessage(1, 0.0, b"a")], greeted=False)
        made.receive_data(hello(THEIRS, knows(OURS, 2)) + ack(1) + frame(READ, number(1)) + ack(77))
        self.assertEqual(events(made), [HelloReceived(THEIRS, outdated=True)])

    def test_who_has_more_than_we_said(self) -> None:
        """Stored there is enough: no view needs to have had it."""
        made = core(sent=1, waiting=[OutgoingMessage(1, 0.0, b"a")], greeted=False)
        made.receive_data(hello(THEIRS, knows(OURS, 0, stored=2)) + ack(1))
        self.assertEqual(events(made), [HelloReceived(THEIRS, outdated=True)])

    def test_who_knows_another_message_under_an_id_of_ours(self) -> None:
        """Their mark is for what this side has lost, not for what it says now."""
        for time, outdated in ((2000, True), (3000, False), (0, False)):
            with self.subTest(time):
                waiting = [
                    OutgoingMessage(2, 2.5, b"b"),
                    OutgoingMessage(3, 3.0, b"c"),
                    OutgoingMessage(4, 4.0, b"d"),
                ]
                made = core(sent=4, waiting=waiting, greeted=False)
                made.receive_data(hello(THEIRS, knows(OURS, 2, 2, 3, time)))
                marks = [] if outdated else [Delivered(2), PeerHasRead(2)]
                self.assertEqual(events(made), [HelloReceived(THEIRS, outdated), *marks])

    def test_who_says_another_message_under_an_id_that_we_know(self) -> None:
        """They will find out, and say all of it again: nothing is taken twice."""
        for time, heard in ((2000, [2]), (3000, [2, 3, 4]), (0, [2, 3, 4])):
            with self.subTest(time):
                made = ChatCore(Hello(OURS, [Known(THEIRS, 2, 2, 3, 3.0)]), 0)
                made.receive_data(
                    hello() + message(2, b"b", 1) + message(3, b"c", time) + message(4, b"d", 2)
                )
                found = [event.id for event in events(made) if isinstance(event, MessageReceived)]
                self.assertEqual(found, heard)

    def test_a_long_name_is_cut(self) -> None:
        made = core()
        made.receive_data(frame(NAME, b"n" * 10_000) + frame(NAME, b"\xff\xfe"))
        self.assertEqual(events(made), [Named("n" * MAX_NAME), Named("\ufffd\ufffd")])

    def test_room_to_grow(self) -> None:
        made = core(greeted=False)
        made.receive_data(frame(HELLO, hello(THEIRS, knows(OURS))[3:] + b"later") + frame(99, b"new"))
        self.assertEqual(events(made), [HelloReceived(THEIRS, outdated=False)])


class FarewellTests(SynchronousTestCase):
    """Nothing is lost when both leave."""

    def test_bye(self) -> None:
        made = core()
        made.say_bye()
        made.say_bye()
        self.assertEqual(made.data_to_send(), frame(BYE, b""))
        self.assertEqual(events(made), [])
        made.receive_data(frame(BYE, b"") + frame(BYE, b"later"))
        self.assertEqual(events(made), [ByeExchanged()])
        self.assertEqual(made.data_to_send(), b"")

    def test_own_bye_follows_what_is_being_stored(self) -> None:
        made = core()
        made.expect(2)
        made.say_bye()
        self.assertEqual(made.data_to_send(), b"")
        made.send(OutgoingMessage(1, 0.0, b"x"))
        made.expect(1)
        self.assertEqual(made.data_to_send(), message(1, b"x"))
        made.expect(0)
        self.assertEqual(made.data_to_send(), frame(BYE, b""))

    def test_bye_is_answered_when_all_is_delivered(self) -> None:
        made = core()
        made.send(OutgoingMessage(1, 0.0, b"wait"))
        made.data_to_send()
        made.receive_data(frame(BYE, b""))
        self.assertEqual(made.data_to_send(), b"")
        made.receive_data(ack(1))
        self.assertEqual(made.data_to_send(), frame(BYE, b""))
        self.assertEqual(events(made), [Delivered(1), ByeExchanged()])

    def test_bye_is_answered_after_what_is_being_stored(self) -> None:
        made = core()
        made.expect(2)
        made.receive_data(frame(BYE, b""))
        self.assertEqual(made.data_to_send(), b"")
        made.send(OutgoingMessage(1, 0.0, b"x"))
        made.expect(1)
        made.receive_data(ack(1))
        made.data_to_send()
        self.assertEqual(events(made), [Delivered(1)])
        made.expect(0)
        self.assertEqual(made.data_to_send(), frame(BYE, b""))
        self.assertEqual(events(made), [ByeExchanged()])


class HostileTests(SynchronousTestCase):
    """What breaks the protocol."""

    def test_refused(self) -> None:
        cases = {
            "no hello": message(1, b"a"),
            "ack first": ack(0),
            "bye first": frame(BYE, b""),
            "two hellos": hello() + hello(),
            "short hello": frame(HELLO, hello()[3:-1]),
            "short of what it knows": frame(HELLO, hello(THEIRS, knows(OURS))[3:-1]),
            "too much known": hello(THEIRS, *[knows(b"epoch %02d" % n) for n in range(MAX_KNOWN + 1)]),
            "huge mark": hello(THEIRS, knows(b"elsewise", 2**63)),
            "no epoch": hello(epoch=NO_EPOCH),
            "not UTF-8": hello() + message(1, b"\xff"),
            "id 0": hello() + message(0, b"a"),
            "huge id": hello() + message(2**63, b"a"),
            "duplicate": hello() + message(1, b"a") + message(1, b"a"),
            "reordered": hello() + message(2, b"b") + message(1, b"a"),
            "no id": hello() + frame(MESSAGE, b"1234567"),
            "no time": hello() + frame(MESSAGE, b"12345678" + b"1234567"),
            "ack of nothing": hello() + ack(1),
            "read of nothing": hello() + frame(READ, number(1)),
            "short ack": hello() + frame(ACK, b""),
            "too long": hello() + bytes([MESSAGE]) + (MAX_TEXT + 17).to_bytes(2, "big"),
            "64 KiB": hello() + bytes([MESSAGE]) + b"\xff\xff" + b"x" * 65_535,
        }
        for what, data in cases.items():
            with self.subTest(what):
                self.assertRaises(ChatProtocolError, core(greeted=False).receive_data, data)

    def test_what_came_before_counts(self) -> None:
        made = core()
        self.assertRaises(ChatProtocolError, made.receive_data, message(1, b"fine") + message(1, b"again"))
        self.assertEqual(events(made), [MessageReceived(1, "fine", None)])

    def test_ten_megabytes(self) -> None:
        """Nothing is collected beyond one frame."""
        made = core()
        for _ in range(160):
            made.receive_data(frame(99, b"x" * MAX_TEXT))
        self.assertEqual(events(made), [])
        self.assertRaises(ChatProtocolError, made.receive_data, b"\x02\xff\xff" + b"x" * 10_000_000)

    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(st.binary(max_size=200), st.booleans())
    def test_anything_is_refused_or_understood(self, data: bytes, greeted: bool) -> None:
        made = core(greeted=False)
        try:
            made.receive_data((hello() if greeted else b"") + data)
        except ChatProtocolError:
            return
        events(made)

    @settings(derandomize=True, deadline=None, max_examples=15)
    @given(st.lists(st.text(max_size=50), max_size=20), st.lists(st.integers(1, 40), min_size=1, max_size=60))
    def test_however_it_is_cut(self, texts: list[str], cuts: list[int]) -> None:
        texts = [text for text in texts if text.isprintable()]
        sender = ChatCore(Hello(THEIRS), 0, [])
        for identity, text in enumerate(texts, 1):
            sender.send(OutgoingMessage(identity, 0.0, text.encode()))
        data, made, turn = sender.data_to_send(), core(greeted=False), 0
        while data:
            size = cuts[turn % len(cuts)]
            made.receive_data(data[:size])
            data, turn = data[size:], turn + 1
        heard = [event.text for event in events(made) if isinstance(event, MessageReceived)]
        self.assertEqual(heard, texts)
