"""The payloads of control frames by which two peers restart ICE and coordinate an attempt."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS, nat_profiles
from punch.wire.peers.candidate import MAX_TCP_CANDIDATES, Candidate
from punch.wire.peers.link_frames import (
    MAX_ALTERNATIVES,
    MAX_COUNT,
    MAX_TARGETS,
    MAX_TURN,
    Begin,
    First,
    LateCandidates,
    Nats,
    Opened,
    PayloadError,
    Restart,
    Targets,
    TCPCandidates,
)
from punch.wire.peers.nat_profile import MAX_PROFILES, NatProfile

CANDIDATE = Candidate.parse("1 1 udp 2130706431 192.168.1.2 50000 typ host")
RESTART = Restart(3, "abcdefgh", "a" * 24, (CANDIDATE,), 20)


class PayloadTests(SynchronousTestCase):
    """`Restart` and `LateCandidates`: what is written is read as the same; malformed payloads are refused."""

    def test_round_trip(self) -> None:
        self.assertEqual(Restart.decode(RESTART.encode()), RESTART)
        late = LateCandidates(2**31 - 1, (CANDIDATE,) * 32)
        self.assertEqual(LateCandidates.decode(late.encode()), late)

    def test_as_it_travels(self) -> None:
        """Unknown fields are ignored, and pacing may be left out."""
        fields = json.loads(RESTART.encode())
        self.assertEqual(sorted(fields), ["candidates", "generation", "pacing", "password", "ufrag"])
        del fields["pacing"]
        self.assertEqual(Restart.decode(json.dumps({**fields, "more": [1]}).encode()).pacing_ms, 50)

    def test_wrong_fields(self) -> None:
        fields = json.loads(RESTART.encode())
        wrong: list[dict[str, object]] = [
            {"generation": 0},
            {"generation": 2**31},
            {"generation": "1"},
            {"generation": True},
            {"ufrag": "abc"},
            {"password": "a" * 21},
            {"pacing": 4},
            {"candidates": ["nonsense"]},
            {"candidates": [str(CANDIDATE)] * 33},
            {"candidates": str(CANDIDATE)},
        ]
        for change in wrong:
            payload = json.dumps({**fields, **change}).encode()
            self.assertRaises(PayloadError, Restart.decode, payload)
        for name in ("generation", "ufrag", "password", "candidates"):
            rest = {key: value for key, value in fields.items() if key != name}
            self.assertRaises(PayloadError, Restart.decode, json.dumps(rest).encode())
        self.assertRaises(PayloadError, LateCandidates.decode, b'{"generation":1}')

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.one_of(st.binary(max_size=200), st.text().map(str.encode)))
    def test_noise(self, payload: bytes) -> None:
        self.assertRaises(PayloadError, Restart.decode, payload)
        self.assertRaises(PayloadError, LateCandidates.decode, payload)


TARGETS = Targets(3, "prediction", "203.0.113.7", (40000, 40001))
OPENED = Opened(3, "203.0.113.8", ((50000,), (50001, 50002)))
SIMULTANEOUS = Targets(4, "simultaneous-open", "203.0.113.7", (40000,), First.BOTH, 2)
SPRAYED = Opened(5, "203.0.113.8", (), 256)


class PunchingTests(SynchronousTestCase):
    """`Nats`, `Targets` and `Opened`."""

    @SETTINGS
    @given(st.lists(nat_profiles, max_size=MAX_PROFILES).map(tuple))
    def test_profiles(self, profiles: tuple[NatProfile, ...]) -> None:
        """Whatever is written is read as the same."""
        nats = Nats(profiles)
        self.assertEqual(Nats.decode(nats.encode()), nats)

    def test_choice_among_all_pairs(self) -> None:
        """`pairs` is absent in frames of older releases, and is then False."""
        self.assertEqual(json.loads(Nats(()).encode()), {"nats": []})
        self.assertEqual(json.loads(Nats((), pairs=True).encode()), {"nats": [], "pairs": True})
        for data, pairs in ((b'{"nats":[]}', False), (b'{"nats":[],"pairs":true}', True)):
            self.assertEqual(Nats.decode(data), Nats((), pairs))
        for wrong in (b'{"nats":[],"pairs":1}', b'{"nats":[],"pairs":null}'):
            self.assertRaises(PayloadError, Nats.decode, wrong)

    def test_round_trips(self) -> None:
        """The forms of docs/protocol.md."""
        self.assertEqual(Targets.decode(TARGETS.encode()), TARGETS)
        self.assertEqual(Opened.decode(OPENED.encode()), OPENED)
        self.assertEqual(
            json.loads(TARGETS.encode()),
            {"attempt": 3, "technique": "prediction", "host": "203.0.113.7", "ports": [40000, 40001]},
        )
        self.assertEqual(
            json.loads(OPENED.encode()),
            {"attempt": 3, "host": "203.0.113.8", "ports": [[50000], [50001, 50002]]},
        )

    def test_other_techniques(self) -> None:
        """What a simultaneous open and spraying have besides."""
        for first in First:
            asked = Targets(4, "simultaneous-open", "203.0.113.7", (40000,), first, MAX_TURN)
            self.assertEqual(Targets.decode(asked.encode()), asked)
        fields = json.loads(SIMULTANEOUS.encode())
        self.assertEqual((fields["first"], fields["turn"]), ("both", 2))
        self.assertEqual(Opened.decode(SPRAYED.encode()), SPRAYED)
        self.assertEqual(
            json.loads(SPRAYED.encode()), {"attempt": 5, "host": "203.0.113.8", "ports": [], "count": 256}
        )
        near = replace(SPRAYED, near=(20_000, 20_511))
        self.assertEqual(Opened.decode(near.encode()), near)
        self.assertEqual(json.loads(near.encode())["near"], [20_000, 20_511])
        # It says something only about ports that are not named
        self.assertEqual(Opened.decode(OPENED.encode()[:-1] + b',"near":[1,2]}'), OPENED)
        self.assertEqual(Begin.decode(Begin(7).encode()), Begin(7))
        self.assertEqual(json.loads(Begin(7).encode()), {"attempt": 7})
        refused = Opened(3, "203.0.113.8", ())
        self.assertEqual([each.refused for each in (refused, SPRAYED, OPENED)], [True, False, False])

    def test_a_turn_without_a_side_that_sends_first(self) -> None:
        """A turn without a side that sends first is read as 0."""
        asked = Targets.decode(TARGETS.encode()[:-1] + b',"turn":4}')
        self.assertEqual(asked, TARGETS)
        self.assertEqual(Targets.decode(asked.encode()), asked)

    def test_malformed_others(self) -> None:
        """Sides, turns and numbers that do not exist are refused."""
        wrong: list[dict[str, object]] = [{"first": ""}, {"first": 1}, {"turn": -1}, {"turn": MAX_TURN + 1}]
        for change in wrong:
            data = json.dumps({**json.loads(SIMULTANEOUS.encode()), **change}).encode()
            self.assertRaises(PayloadError, Targets.decode, data)
        for count in (-1, MAX_COUNT + 1, "1", None, 1.5):
            data = json.dumps({**json.loads(SPRAYED.encode()), "count": count}).encode()
            self.assertRaises(PayloadError, Opened.decode, data)
        for ports in (None, 5, [], [1], [1, 2, 3], [2, 1], [0, 5], [5, 65536], ["1", "2"]):
            data = json.dumps({**json.loads(SPRAYED.encode()), "near": ports}).encode()
            self.assertRaises(PayloadError, Opened.decode, data)
        for attempt in (0, 2**31, "1", None):
            self.assertRaises(PayloadError, Begin.decode, json.dumps({"attempt": attempt}).encode())

    def test_tcp(self) -> None:
        """Where a side listens for TCP; candidates of other kinds are left out."""
        text = "0h 1 tcp 2122317823 192.0.2.1 9000 typ host tcptype passive"
        said = TCPCandidates(1, (Candidate.parse(text),))
        self.assertEqual(TCPCandidates.decode(said.encode()), said)
        self.assertEqual(json.loads(said.encode()), {"attempt": 1, "candidates": [text]})
        others = ["1 1 udp 1 192.0.2.1 5 typ host", "1 1 tcp 1 192.0.2.1 9 typ host", text]
        self.assertEqual(
            TCPCandidates.decode(json.dumps({"attempt": 1, "candidates": others}).encode()), said
        )
        for wrong in (
            {"attempt": 0, "candidates": []},
            {"attempt": 1},
            {"attempt": 1, "candidates": [text] * (MAX_TCP_CANDIDATES + 1)},
            {"attempt": 1, "candidates": ["1 1 tcp 1 192.0.2.1 0 typ host tcptype passive"]},
            {"attempt": 1, "candidates": text},
        ):
            self.assertRaises(PayloadError, TCPCandidates.decode, json.dumps(wrong).encode())

    def test_malformed(self) -> None:
        """Wrong values, too many ports, what is no address, and no JSON."""
        targets, opened = json.loads(TARGETS.encode()), json.loads(OPENED.encode())
        wrong: list[dict[str, object]] = [
            {"attempt": 0},
            {"attempt": 2**31},
            {"attempt": "1"},
            {"host": "example.org"},
            {"host": "203.0.113.7%eth0"},
            {"host": 7},
            {"ports": None},
            {"ports": [0]},
            {"ports": [65536]},
            {"ports": ["1"]},
            {"ports": [1] * (MAX_TARGETS + 1)},
        ]
        names: list[dict[str, object]] = [{"technique": 3}, {"technique": "\u202e"}]
        for change in wrong + names:
            data = json.dumps({**targets, **change}).encode()
            self.assertRaises(PayloadError, Targets.decode, data)
        ports: list[dict[str, object]] = [{"ports": [[1] * (MAX_ALTERNATIVES + 1)]}, {"ports": [[0]]}]
        for change in wrong + ports:
            data = json.dumps({**opened, **change}).encode()
            self.assertRaises(PayloadError, Opened.decode, data)
        for kind in (Nats, Targets, Opened, Begin):
            for data in (b"", b"[]", b"{}", b"\xff", b"{" * 5000, b'{"attempt": 1, "attempt": 2}'):
                self.assertRaises(PayloadError, kind.decode, data)
