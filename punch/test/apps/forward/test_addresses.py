"""Addresses as they are typed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.apps.forward.addresses import (
    MAX_SOCKET_PATH,
    AddressProblem,
    ForwardAddressError,
    check_service,
    parse_address,
    service_of,
    split_target,
)


class AddressTests(SynchronousTestCase):
    def test_addresses(self) -> None:
        for text, service in (
            ("localhost:22", "tcp/localhost:22"),
            ("LocalHost.:022", "tcp/localhost:22"),
            ("22", "tcp/localhost:22"),
            (":22", "tcp/localhost:22"),
            ("127.0.0.1:80", "tcp/127.0.0.1:80"),
            ("[::1]:80", "tcp/[::1]:80"),
            ("[0:0::1]:80", "tcp/[::1]:80"),
            ("db-1.example.com:65535", "tcp/db-1.example.com:65535"),
            ("/run/app.sock", "unix//run/app.sock"),
            ("unix:app.sock", "unix/app.sock"),
        ):
            self.assertEqual(parse_address(text).service, service)
            self.assertEqual(service_of(text), service)
        self.assertEqual(service_of("ssh"), "ssh")
        self.assertEqual(service_of("echo/1"), "echo/1")

    def test_a_port_to_listen_at(self) -> None:
        for text, shown in (
            ("0", "localhost:0"),
            ("[::]:0", "[::]:0"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("unix:0", "0"),
            ("/run/display:0", "/run/display:0"),
        ):
            self.assertEqual(str(parse_address(text, listening=True)), shown)

    def test_ports_of_udp(self) -> None:
        """They are other services than those of TCP, also under a name."""
        self.assertEqual(parse_address("53", udp=True).service, "udp/localhost:53")
        self.assertEqual(str(parse_address("[::]:0", listening=True, udp=True)), "[::]:0")
        for text, service in (("[::1]:053", "udp/[::1]:53"), ("dns", "udp/dns"), ("dns/1", "udp/dns/1")):
            self.assertEqual(service_of(text, udp=True), service)
        for text in ("/run/socket", "unix:a"):
            error = self.assertRaises(ForwardAddressError, parse_address, text, udp=True)
            self.assertEqual(error.problem, AddressProblem.UDP_PATH)
        for name in ("", "x" * 252, "a\n"):
            with self.assertRaises(ForwardAddressError):
                service_of(name, udp=True)

    def test_what_is_none(self) -> None:
        for text, problem in (
            ("", AddressProblem.FORM),
            ("localhost:", AddressProblem.FORM),
            ("localhost:http", AddressProblem.FORM),
            ("localhost:0", AddressProblem.PORT),
            ("localhost:65536", AddressProblem.PORT),
            ("0", AddressProblem.PORT),
            ("::1:80", AddressProblem.BRACKETS),
            ("[::1:80", AddressProblem.FORM),
            ("[localhost]:80", AddressProblem.FORM),
            ("-x:80", AddressProblem.FORM),
            ("a b:80", AddressProblem.FORM),
            ("a\u202e:80", AddressProblem.FORM),
            ("ä:80", AddressProblem.FORM),
            ("localhost:٨٠", AddressProblem.FORM),
            ("x" * 300 + ":80", AddressProblem.FORM),
            ("unix:", AddressProblem.PATH),
            ("/a\0b", AddressProblem.PATH),
            ("/" + "x" * MAX_SOCKET_PATH, AddressProblem.LONG_PATH),
            ("unix:" + "ä" * (MAX_SOCKET_PATH // 2 + 1), AddressProblem.LONG_PATH),
        ):
            error = self.assertRaises(ForwardAddressError, parse_address, text)
            self.assertEqual((text, error.problem), (text, problem))

    def test_names_of_services(self) -> None:
        for name in ("", "a\nb", "x" * 256, "\u202e"):
            with self.assertRaises(ForwardAddressError):
                check_service(name)

    def test_targets(self) -> None:
        self.assertEqual(split_target("bob:localhost:80"), ("bob", "localhost:80"))
        self.assertEqual(split_target("bob:/run/app.sock"), ("bob", "/run/app.sock"))
        for text in ("bob", "bob:", ":80", ""):
            error = self.assertRaises(ForwardAddressError, split_target, text)
            self.assertEqual((error.problem, error.text), (AddressProblem.TARGET, text))
