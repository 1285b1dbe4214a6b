"""Ports in texts: of addresses, URIs and options."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.wire.address import PortError, parse_port


class PortTests(SynchronousTestCase):
    """`parse_port`: which texts are ports."""

    def test_ports(self) -> None:
        for text, port in (("1", 1), ("3478", 3478), ("00080", 80), ("65535", 65535)):
            self.assertEqual(parse_port(text), port)
        self.assertEqual(parse_port("0", 0), 0)

    def test_out_of_range(self) -> None:
        """Numbers that no port has. Port 0 is one only where it means any free port."""
        for text in ("0", "00000", "65536", "99999"):
            with self.assertRaises(PortError) as caught:
                parse_port(text)
            self.assertTrue(caught.exception.out_of_range)
        with self.assertRaises(PortError):
            parse_port("65536", 0)

    def test_no_numbers(self) -> None:
        """Signs, spaces, digits of other scripts and more than five digits are not allowed in a port."""
        for text in ("", "-1", "+80", " 80", "80 ", "8_0", "80\n", "\u0668\u0660", "000080", "http", "0x50"):
            with self.assertRaises(PortError) as caught:
                parse_port(text)
            self.assertFalse(caught.exception.out_of_range)
            self.assertEqual(caught.exception.text, text)
