"""ICE candidates in their text form."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.test.strategies import SETTINGS, candidates
from punch.wire.address import Address, TCPAddress
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType, UnsupportedCandidate

HOST = "1 1 udp 2130706431 192.168.1.2 50000 typ host"


class CandidateTests(SynchronousTestCase):
    """RFC 8839, section 5.1."""

    @SETTINGS
    @given(candidates)
    def test_round_trip(self, candidate: Candidate) -> None:
        """Whatever is written is read as the same."""
        self.assertEqual(Candidate.parse(str(candidate)), candidate)

    @SETTINGS
    @given(st.text(max_size=100) | st.text("0123456789abcdeftyphosudr .:", max_size=100))
    def test_any_text(self, text: str) -> None:
        """Any text is a candidate or a `ValueError` that can be shown."""
        try:
            Candidate.parse(text)
        except ValueError as error:
            self.assertTrue(str(error).isprintable())

    def test_host(self) -> None:
        """The example of the RFC, in our form."""
        candidate = Candidate.parse(HOST)
        self.assertEqual(
            candidate, Candidate(CandidateType.HOST, Address("192.168.1.2", 50000), 2130706431, "1")
        )
        self.assertEqual(str(candidate), HOST)

    def test_related(self) -> None:
        """A reflexive candidate has its base, or zeros for privacy, or nothing."""
        text = "2 1 UDP 1694498815 192.0.2.3 45664 typ srflx"
        self.assertIsNone(Candidate.parse(text).related)
        self.assertEqual(
            Candidate.parse(text + " raddr 10.0.1.1 rport 8998").related, Address("10.0.1.1", 8998)
        )
        self.assertEqual(Candidate.parse(text + " raddr 0.0.0.0 rport 0").related, Address("0.0.0.0", 0))
        for half in (" raddr 10.0.1.1", " rport 8998", " raddr 10.0.1.1 rport x", " raddr x rport 1"):
            self.assertRaises(ValueError, Candidate.parse, text + half)

    def test_extensions(self) -> None:
        """Extensions of other implementations are ignored."""
        for extension in (" generation 0", " generation 0 ufrag AbCd network-cost 999", " tcptype active"):
            self.assertEqual(Candidate.parse(HOST + extension), Candidate.parse(HOST))
        self.assertRaises(ValueError, Candidate.parse, HOST + " generation")

    def test_canonical(self) -> None:
        """One address has one form."""
        ipv6 = Candidate.parse("1 1 udp 1 2001:DB8:0:0::1 5 typ host")
        self.assertEqual(ipv6.address, Address("2001:db8::1", 5))
        mapped = Candidate.parse("1 1 udp 1 ::ffff:192.0.2.1 5 typ host")
        self.assertEqual(mapped.address, Address("192.0.2.1", 5))

    def test_tcp(self) -> None:
        """Candidates of TCP (RFC 6544, section 4.5), which equal none of UDP at the same address and port."""
        text = "1 1 tcp 2105458943 192.0.2.1 9000 typ srflx raddr 10.0.1.1 rport 8998 tcptype so"
        candidate = Candidate.parse(text)
        self.assertEqual(candidate.tcp_type, TCPType.SIMULTANEOUS_OPEN)
        self.assertEqual(candidate.address, TCPAddress("192.0.2.1", 9000))
        self.assertEqual((candidate.protocol, str(candidate)), ("tcp", text))
        self.assertEqual(Candidate.parse(text + " generation 0"), candidate)
        udp = Address("192.0.2.1", 9000)
        self.assertNotEqual(candidate.address, udp)
        self.assertNotEqual(udp, candidate.address)
        self.assertEqual(len({candidate.address, udp, TCPAddress(*udp)}), 2)

    def test_unsupported(self) -> None:
        """Right, perhaps, but of no use to us: told apart, so that it can be ignored."""
        for text in (
            "1 1 tcp 1 192.0.2.1 9 typ host",
            "1 1 tcp 1 192.0.2.1 9 typ host tcptype lazy",
            "1 1 sctp 1 192.0.2.1 9 typ host",
            "1 1 udp 1 3f1c.local 5000 typ host",
            "1 1 udp 1 example.org 5000 typ host",
            "1 1 udp 1 192.0.2.1 5000 typ token",
        ):
            self.assertRaises(UnsupportedCandidate, Candidate.parse, text)

    def test_wrong(self) -> None:
        """Each field out of its range or out of its place."""
        for text in (
            "",
            "candidate:" + HOST,
            HOST + "\n",
            HOST + " ",
            HOST.replace(" ", "  ", 1),
            "1 1 udp 2130706431 192.168.1.2 50000",
            "1 1 udp 2130706431 192.168.1.2 typ host",
            "1 0 udp 1 192.0.2.1 5 typ host",
            "1 257 udp 1 192.0.2.1 5 typ host",
            "1 1 udp 0 192.0.2.1 5 typ host",
            "1 1 udp 2147483648 192.0.2.1 5 typ host",
            "1 1 udp -1 192.0.2.1 5 typ host",
            "1 1 udp 1 192.0.2.1 0 typ host",
            "1 1 udp 1 192.0.2.1 65536 typ host",
            "1 1 udp \u0661 192.0.2.1 5 typ host",
            "a-b 1 udp 1 192.0.2.1 5 typ host",
            "a" * 33 + " 1 udp 1 192.0.2.1 5 typ host",
            "1 1 udp 1 192.0.2.256 5 typ host",
            "1 1 udp 1 192.0.2 5 typ host",
            "1 1 udp 1 fe80::1%eth0 5 typ host",
            "1 1 udp 1 2001:db8:::1 5 typ host",
            "1 1 udp 1 0.0.0.0 5 typ host",
            "1 1 udp 1 :: 5 typ host",
            "1 1 udp 1 224.0.0.251 5 typ host",
            "1 1 udp 1 ff02::fb 5 typ host",
            "1 1 udp 1 255.255.255.255 5 typ host",
            HOST + " x y" * 1000,
        ):
            error = self.assertRaises(ValueError, Candidate.parse, text)
            self.assertFalse(isinstance(error, UnsupportedCandidate), text)
