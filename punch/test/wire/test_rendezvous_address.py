"""Rendezvous addresses as people paste and type them."""

from __future__ import annotations

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from punch.identity import key_to_text
from punch.sentences import sentence_of
from punch.test.strategies import IDENTITIES, SETTINGS, hosts, ports
from punch.wire.invitation import Invitation, service_tag
from punch.wire.rendezvous_address import (
    DEFAULT_PORT,
    RendezvousAddress,
    RendezvousAddressError,
    invitation_in,
    pin_of,
)

PIN = pin_of(IDENTITIES[0].private_key.public_key())
PIN_TEXT = key_to_text(PIN, 2)


class RendezvousAddressTests(SynchronousTestCase):
    """Reading and writing them."""

    def reads(self, text: str, host: str, port: int = DEFAULT_PORT, pin: bytes | None = None) -> None:
        """`text` is read as this, and what is printed for it is read as the same."""
        address = RendezvousAddress.parse(text)
        self.assertEqual(address, RendezvousAddress(host, port, pin))
        self.assertEqual(RendezvousAddress.parse(str(address)), address)

    def refused(self, text: str, because: str) -> None:
        """`text` is refused in one sentence that says `because`."""
        message = sentence_of(self.assertRaises(RendezvousAddressError, RendezvousAddress.parse, text))
        self.assertIn(because, message, text)
        self.assertTrue(message.isprintable() and message.endswith("."), message)

    def test_good(self) -> None:
        """All the forms that are taken."""
        self.reads("punch://example.org:7002", "example.org", 7002)
        self.reads(f"punch://example.org:7002/{PIN_TEXT}", "example.org", 7002, PIN)
        self.reads("example.org", "example.org")
        self.reads("example.org:7002", "example.org", 7002)
        self.reads(f"example.org/{PIN_TEXT}", "example.org", pin=PIN)
        self.reads("PUNCH://Example.ORG.:7001/", "example.org")
        self.reads("  punch://192.0.2.1:1\n", "192.0.2.1", 1)
        self.reads("punch://[2001:DB8::0:1]:65535", "2001:db8::1", 65535)
        self.reads("[::1]", "::1")
        self.reads("[fe80::1%eth0]", "fe80::1%eth0")
        self.reads(f"punch://[::1]:7001/{PIN_TEXT.upper()}", "::1", pin=PIN)
        self.reads("localhost", "localhost")
        self.reads("my_host-1", "my_host-1")
        self.reads("b\u00fccher.example", "xn--bcher-kva.example")
        self.reads("127.0.0.1.:1", "127.0.0.1", 1)
        self.reads("192\u30020\u30022\u30021", "192.0.2.1")
        self.reads("0x7f.example", "0x7f.example")

    def test_invitation(self) -> None:
        """It comes with the address, and does not stay with it: it is secret."""
        invitation = Invitation.new(service_tag(PIN), lambda size: bytes(size))
        address = RendezvousAddress.parse(f"punch://example.org/{PIN_TEXT}?token={str(invitation).upper()}")
        self.assertEqual(address.invitation, invitation)
        self.assertNotIn("token", str(address))
        self.assertNotIn(str(invitation), repr(address))
        self.assertEqual(RendezvousAddress.parse(address.with_invitation).invitation, invitation)
        self.assertEqual(invitation_in([RendezvousAddress("example.net"), address]), str(invitation))
        other = Invitation.new(service_tag(bytes(32)), lambda size: bytes(size))
        self.refused(f"example.org/{PIN_TEXT}?token={other}", "for another rendezvous")
        self.refused(f"example.org?token={str(other)[:-1]}", "characters are missing")
        self.refused("example.org?token", "an invitation")

    def test_printed(self) -> None:
        """The printed form is whole: scheme, port, brackets, pin."""
        self.assertEqual(str(RendezvousAddress("example.org")), "punch://example.org:7001")
        self.assertEqual(str(RendezvousAddress("2001:db8::1", 1)), "punch://[2001:db8::1]:1")
        self.assertEqual(str(RendezvousAddress("h", 7001, PIN)), f"punch://h:7001/{PIN_TEXT}")

    @SETTINGS
    @given(hosts, ports, st.none() | st.binary(min_size=32, max_size=32))
    def test_round_trip(self, host: str, port: int, pin: bytes | None) -> None:
        """Whatever is printed is read as the same."""
        address = RendezvousAddress(host, port, pin)
        try:
            self.assertEqual(RendezvousAddress.parse(str(address)), address)
        except RendezvousAddressError as error:
            self.assertIn("is not the address of one host", sentence_of(error))

    @SETTINGS
    @given(st.text(max_size=80) | st.text("punch:/[].0123456789abcdef", max_size=40))
    def test_any_text(self, text: str) -> None:
        """Any text is an address or one sentence."""
        try:
            address = RendezvousAddress.parse(text)
        except RendezvousAddressError as error:
            self.assertTrue(sentence_of(error).isprintable(), sentence_of(error))
        else:
            self.assertEqual(RendezvousAddress.parse(str(address)), address)

    def test_mistakes(self) -> None:
        """Each mistake has a sentence of its own."""
        self.refused("", "is empty")
        self.refused("punch://", "The host is missing")
        self.refused("punch://:7001", "The host is missing")
        self.refused("https://example.org", "begins with punch://, not with 'https'")
        self.refused("user@example.org", "no user name")
        self.refused("example.org?x=1", "an invitation")
        self.refused("example.org?token=abc", "characters are missing")
        self.refused("example.org/#x", "no fragment")
        self.refused("example.org:", "The port")
        self.refused("example.org:0", "The port")
        self.refused("example.org:65536", "The port")
        self.refused("example.org:99999999999", "The port")
        self.refused("example.org:http", "The port")
        self.refused("example.org:+1", "The port")
        self.refused("example.org:\u0661", "The port")
        self.refused("2001:db8::1", "in brackets")
        self.refused("2001:db8::1:7001", "in brackets")
        self.refused("[2001:db8::1", "The ] after")
        self.refused("[2001:db8::1]7001", "After the ]")
        self.refused("[192.0.2.1]:7001", "an IPv6 address, not")
        self.refused("[2001:db8::g]", "is no IP address")
        for zone in ("\r\nX: y", "a b", "\x1b[2J", "\u202e"):
            self.refused(f"[fe80::1%{zone}]", "is no IP address")
        self.refused("192.0.2", "is no IP address")
        for number in ("127.1", "127.1.", "2130706433", "0177.0.0.1", "0x7f000001", "127.0x1", "0x7F.1."):
            self.refused(number, "is no IP address")
        self.refused("0\u30020\u30020\u30020", "not the address of one host")
        self.refused("192.0.2.256", "is no IP address")
        self.refused("0.0.0.0:7001", "not the address of one host")
        self.refused("[::]:7001", "not the address of one host")
        self.refused("224.0.0.1", "not the address of one host")
        self.refused("exa mple.org", "no host name")
        self.refused("example..org", "no host name")
        self.refused("-example.org", "no host name")
        self.refused("a" * 64 + ".org", "no host name")
        self.refused("a." * 130 + "org", "no host name")
        self.refused("\x1b[31mhost", "no host name")

    def test_pins(self) -> None:
        """A typo in the pin is named as one; other things in its place are named as what they are."""
        peer = str(IDENTITIES[0].peer_id)
        wrong = PIN_TEXT[:20] + ("a" if PIN_TEXT[20] != "a" else "b") + PIN_TEXT[21:]
        self.refused(f"example.org/{wrong}", "typo in the pin of the rendezvous")
        self.refused(f"example.org/{PIN_TEXT[:-1]}", "typo in the pin of the rendezvous")
        self.refused("example.org/index.html", "typo in the pin of the rendezvous")
        self.refused(f"example.org/{peer}", "is a peer ID, not the pin")
        self.refused(f"example.org/{key_to_text(bytes(32), 9)}", "install a newer Punch")
        self.refused(peer, "This is a peer ID, not a rendezvous address")
        self.refused(f"punch://{peer}:7001", "This is a peer ID, not a rendezvous address")

    def test_pin_of(self) -> None:
        """A pin is the hash of the SubjectPublicKeyInfo, of whatever kind the key is."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(pin_of(key), sha256(spki).digest())
        self.assertEqual(len(PIN_TEXT), 56)

    def test_several(self) -> None:
        """A pin in one address holds for all; what is printed is read as the same."""
        text = f"punch://a.example:7001/{PIN_TEXT}, 192.0.2.1,punch://a.example:7001"
        first, second = RendezvousAddress.parse_all(text)
        self.assertEqual(first, RendezvousAddress("a.example", 7001, PIN))
        self.assertEqual(second, RendezvousAddress("192.0.2.1", 7001, PIN))
        self.assertEqual(RendezvousAddress.parse_all(f"{first},{second}"), (first, second))

    def test_several_refused(self) -> None:
        """Too many, of different services, or malformed ones."""
        other = key_to_text(bytes(32), 2)
        for text, because in (
            (",".join(f"192.0.2.{number}" for number in range(1, 10)), "at most 8"),
            (f"a.example/{PIN_TEXT},b.example/{other}", "different pins"),
            ("a.example,", "is empty"),
        ):
            problem = self.assertRaises(RendezvousAddressError, RendezvousAddress.parse_all, text)
            self.assertIn(because, sentence_of(problem))

    def test_services(self) -> None:
        """DNS is asked for the servers of a domain that is given without a port."""
        for text, asked in (
            ("example.org", True),
            (f"punch://example.org/{PIN_TEXT}", True),
            ("example.org:7001", False),
            ("192.0.2.1", False),
            ("[2001:db8::1]", False),
            ("localhost", False),
        ):
            address = RendezvousAddress.parse(text)
            self.assertEqual(address.has_services, asked, text)
            self.assertEqual(RendezvousAddress.parse(str(address)).has_services, asked, text)
