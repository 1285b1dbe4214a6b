"""The payloads of the control frames RESTART and CANDIDATES."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.wire.peers.candidate import Candidate
from punch.wire.peers.restart_frames import LateCandidates, Restart, RestartError

CANDIDATE = Candidate.parse("1 1 udp 2130706431 192.168.1.2 50000 typ host")
RESTART = Restart(3, "abcdefgh", "a" * 24, (CANDIDATE,), 20)


class PayloadTests(SynchronousTestCase):
    """There and back, and what is refused."""

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
            self.assertRaises(RestartError, Restart.decode, payload)
        for name in ("generation", "ufrag", "password", "candidates"):
            rest = {key: value for key, value in fields.items() if key != name}
            self.assertRaises(RestartError, Restart.decode, json.dumps(rest).encode())
        self.assertRaises(RestartError, LateCandidates.decode, b'{"generation":1}')

    @settings(derandomize=True, deadline=None, max_examples=100)
    @given(st.one_of(st.binary(max_size=200), st.text().map(str.encode)))
    def test_noise(self, payload: bytes) -> None:
        self.assertRaises(RestartError, Restart.decode, payload)
        self.assertRaises(RestartError, LateCandidates.decode, payload)
