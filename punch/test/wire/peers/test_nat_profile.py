"""NAT profiles as JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS, nat_profiles
from punch.wire.fields import FieldError
from punch.wire.peers.nat_profile import (
    MAX_PROFILES,
    MAX_STEP,
    Mapping,
    NatProfile,
    PortAssignment,
    read_profiles,
    write_profiles,
)

PROFILE = NatProfile(
    "203.0.113.7", frozenset({Mapping.ADDRESS_AND_PORT_DEPENDENT}), PortAssignment.SEQUENTIAL, -2, 3, 4, 12
)


class NatProfileTests(SynchronousTestCase):
    """`read_profiles` and `write_profiles`."""

    @SETTINGS
    @given(st.lists(nat_profiles, max_size=MAX_PROFILES).map(tuple))
    def test_round_trip(self, profiles: tuple[NatProfile, ...]) -> None:
        """Whatever is written is read as the same."""
        self.assertEqual(read_profiles(write_profiles(profiles)), profiles)

    def test_the_form(self) -> None:
        """That of docs/protocol.md."""
        self.assertEqual(
            PROFILE.to_json(),
            {
                "host": "203.0.113.7",
                "mapping": ["address-and-port-dependent"],
                "ports": "sequential",
                "step": -2,
                "agreeing": 3,
                "observed": 4,
                "age": 12,
            },
        )

    def test_what_is_left_out(self) -> None:
        """A profile of another form is left out, and the others are taken."""
        good = PROFILE.to_json()
        wrong: list[object] = [
            None,
            [],
            {},
            {**good, "host": "example.org"},
            {**good, "mapping": ["sideways"]},
            {**good, "mapping": "endpoint-independent"},
            {**good, "ports": "odd"},
            {**good, "step": 0},
            {**good, "step": MAX_STEP + 1},
            {**good, "step": 1.5},
            {**good, "ports": "random"},
            {**good, "observed": -1},
            {**good, "age": 1e9},
        ]
        for bad in wrong:
            self.assertEqual(read_profiles([bad, good]), (PROFILE,), bad)

    def test_too_many(self) -> None:
        """Those beyond the limit are neither written nor read."""
        self.assertEqual(len(write_profiles([PROFILE] * 9)), MAX_PROFILES)
        self.assertEqual(len(read_profiles([PROFILE.to_json()] * 9)), MAX_PROFILES)

    def test_no_array(self) -> None:
        """Anything but an array is an error."""
        wrong: list[object] = [None, {}, "x", 3]
        for value in wrong:
            self.assertRaises(FieldError, read_profiles, value)
