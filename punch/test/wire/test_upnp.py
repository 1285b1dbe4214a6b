"""The search for routers with UPnP: bytes as devices write them, and as they should not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.wire.address import Address
from punch.wire.port_mapping import LONGEST_ANSWER, MULTICAST, parse_search_answer, search_request

ROUTER = "192.168.1.1"
MINIUPNPD = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n"
    b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"USN: uuid:00000000-0000-0000-0000-000000000001::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"EXT:\r\nSERVER: Debian/12 UPnP/1.1 MiniUPnPd/2.3.1\r\n"
    b"LOCATION: http://192.168.1.1:39281/rootDesc.xml\r\n"
    b'OPT: "http://schemas.upnp.org/upnp/1/0/"; ns=01\r\n\r\n'
)


class SearchTests(SynchronousTestCase):
    def test_request(self) -> None:
        """To all devices, and to one."""
        self.assertEqual(
            search_request(MULTICAST),
            b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
            b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n",
        )
        self.assertIn(b"HOST: 192.168.1.1:1900\r\n", search_request(Address(ROUTER, 1900)))

    def test_answer(self) -> None:
        """Field names in any case, lines with or without carriage returns, any space."""
        expected = "http://192.168.1.1:39281/rootDesc.xml"
        for answer in (
            MINIUPNPD,
            MINIUPNPD.replace(b"LOCATION: ", b"Location:"),
            MINIUPNPD.replace(b"\r\n", b"\n"),
            MINIUPNPD.replace(b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK"),
        ):
            self.assertEqual(parse_search_answer(answer, ROUTER), expected, answer)
        plain = MINIUPNPD.replace(b":39281", b"")
        self.assertEqual(parse_search_answer(plain, ROUTER), "http://192.168.1.1/rootDesc.xml")

    def test_other_hosts(self) -> None:
        """A router describes itself: nothing makes this machine fetch what another host has."""
        for url in (
            b"http://192.168.1.2/x",
            b"http://192.168.1.1.example/x",
            b"http://192.168.1.1@10.0.0.1/x",
            b"http://user@192.168.1.1/x",
            b"http://[::1]/x",
            b"http://localhost/x",
        ):
            answer = b"HTTP/1.1 200 OK\r\nLOCATION: %s\r\n\r\n" % url
            self.assertIsNone(parse_search_answer(answer, ROUTER), url)

    def test_malformed(self) -> None:
        for answer in (
            b"",
            b"HTTP/1.1 404 Not Found\r\nLOCATION: http://192.168.1.1/x\r\n\r\n",
            b"NOTIFY * HTTP/1.1\r\nLOCATION: http://192.168.1.1/x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: https://192.168.1.1/x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: file:///etc/passwd\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:99999/x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:/x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/\xff\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/a b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1/%s\r\n\r\n" % (b"x" * 300),
            MINIUPNPD + bytes(LONGEST_ANSWER),
        ):
            self.assertIsNone(parse_search_answer(answer, ROUTER), answer)
