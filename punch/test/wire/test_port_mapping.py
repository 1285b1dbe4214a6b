"""
Messages of PCP and NAT-PMP, written out as the RFCs show them; and the search for routers with UPnP, with
answers of real devices and answers that must be ignored.
"""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from punch.wire.address import Address, TCPAddress
from punch.wire.port_mapping import (
    LONGEST,
    LONGEST_ANSWER,
    MULTICAST,
    AddressAnswer,
    MappingAnswer,
    PcpAnswer,
    nat_pmp_address_request,
    nat_pmp_map_request,
    parse,
    parse_search_answer,
    pcp_map_request,
    search_request,
)

NONCE = bytes(range(0xA0, 0xAC))
INTERNAL, INTERNAL_TCP = Address("192.168.1.7", 0x1234), TCPAddress("192.168.1.7", 0x1234)

#: RFC 6887, figures 2 and 9: version 2, opcode MAP, 7,200 s, the client's address 192.168.1.7; the nonce,
#: protocol UDP, internal port 4660, suggested port 22136 and address 203.0.113.5.
PCP_REQUEST = bytes.fromhex(
    "02 01 0000 00001c20 00000000 00000000 0000ffff c0a80107"
    "a0a1a2a3 a4a5a6a7 a8a9aaab 11 000000 1234 5678 00000000 00000000 0000ffff cb007105"
)
#: RFC 6887, figures 3 and 10: the R bit, result 0, 3,600 s, epoch 66,051; the assigned port is 22137.
PCP_ANSWER = bytes.fromhex(
    "02 81 00 00 00000e10 00010203 00000000 00000000 00000000"
    "a0a1a2a3 a4a5a6a7 a8a9aaab 11 000000 1234 5679 00000000 00000000 0000ffff cb007105"
)
#: RFC 6886, section 3.2: opcode 128, success, epoch 66,051, 203.0.113.5.
ADDRESS_ANSWER = bytes.fromhex("00 80 0000 00010203 cb007105")
#: RFC 6886, section 3.3: opcode 129, success, epoch 66,051, ports 4660 and 22137, 3,600 s.
MAPPING_ANSWER = bytes.fromhex("00 81 0000 00010203 1234 5679 00000e10")


class RequestTests(SynchronousTestCase):
    """What a host sends."""

    def test_pcp(self) -> None:
        suggested = Address("203.0.113.5", 0x5678)
        self.assertEqual(pcp_map_request(NONCE, INTERNAL, suggested, 7200), PCP_REQUEST)
        request = pcp_map_request(NONCE, INTERNAL_TCP, suggested, 7200)
        self.assertEqual(request, PCP_REQUEST[:36] + b"\x06" + PCP_REQUEST[37:])

    def test_pcp_without_a_wish(self) -> None:
        """All zeros of the client's family (RFC 6887, section 11.1)."""
        request = pcp_map_request(NONCE, INTERNAL, None, 0)
        self.assertEqual(request[4:8] + request[42:], bytes(4 + 2 + 10) + b"\xff\xff" + bytes(4))
        request = pcp_map_request(NONCE, Address("2001:db8::7", 0x1234), None, 0)
        self.assertEqual(request[8:24].hex(), "20010db8000000000000000000000007")
        self.assertEqual(request[42:], bytes(18))

    def test_nat_pmp(self) -> None:
        self.assertEqual(nat_pmp_address_request().hex(" "), "00 00")
        for internal, opcode in ((INTERNAL, "01"), (INTERNAL_TCP, "02")):
            request = nat_pmp_map_request(internal, 0x5678, 7200)
            self.assertEqual(request, bytes.fromhex(f"00 {opcode} 0000 1234 5678 00001c20"))


class AnswerTests(SynchronousTestCase):
    """What a router answers."""

    def test_pcp(self) -> None:
        external = Address("203.0.113.5", 0x5679)
        expected = PcpAnswer(2, 0, 3600, 66051, NONCE, 0x1234, external, "udp")
        self.assertEqual(parse(PCP_ANSWER), expected)
        tcp = parse(PCP_ANSWER[:36] + b"\x06" + PCP_ANSWER[37:])
        self.assertEqual(tcp, replace(expected, protocol="tcp"))
        # Options that nobody asked for
        self.assertEqual(parse(PCP_ANSWER + bytes.fromhex("80000004 00000000")), expected)

    def test_pcp_for_ipv6(self) -> None:
        answer = parse(PCP_ANSWER[:44] + bytes.fromhex("20010db8000000000000000000000007"))
        assert isinstance(answer, PcpAnswer)
        self.assertEqual(answer.external, Address("2001:db8::7", 0x5679))

    def test_pcp_errors(self) -> None:
        """Whole, or no more than the header."""
        refused = bytearray(PCP_ANSWER)
        refused[3] = 2
        for data in (bytes(refused), bytes(refused[:24])):
            answer = parse(data)
            assert isinstance(answer, PcpAnswer)
            self.assertEqual((answer.result, answer.lifetime), (2, 3600))
        self.assertIsNone(parse(PCP_ANSWER[:24]))

    def test_other_versions_refuse_pcp(self) -> None:
        """NAT-PMP's servers in 8 bytes (RFC 6887, appendix A), others in PCP's header."""
        for data in ("00 81 0001 00010203", "01 81 00 01 00000000 00010203" + "00" * 12):
            answer = parse(bytes.fromhex(data))
            assert isinstance(answer, PcpAnswer)
            self.assertEqual((answer.result, answer.epoch, answer.external), (1, 66051, None))
        self.assertIsNone(parse(b"\x01" + PCP_ANSWER[1:]))

    def test_nat_pmp(self) -> None:
        self.assertEqual(parse(ADDRESS_ANSWER), AddressAnswer(0, 66051, "203.0.113.5"))
        for opcode, protocol in ((0x81, "udp"), (0x82, "tcp")):
            expected = MappingAnswer(0, 66051, 0x1234, 0x5679, 3600, protocol)
            self.assertEqual(parse(bytes((0, opcode)) + MAPPING_ANSWER[2:]), expected)

    def test_nat_pmp_errors(self) -> None:
        self.assertEqual(parse(bytes.fromhex("00 80 0003 00000001 00000000")), AddressAnswer(3, 1, None))
        self.assertEqual(parse(bytes.fromhex("00 81 0002 00000001")), MappingAnswer(2, 1, 0, 0, 0, "udp"))

    def test_malformed(self) -> None:
        """Requests, other opcodes and protocols, and each wrong length."""
        for data in (PCP_REQUEST, b"\x02\x80" + PCP_ANSWER[2:], PCP_ANSWER[:36] + b"\x07" + PCP_ANSWER[37:]):
            self.assertIsNone(parse(data))
        for data in (b"\x00\x83" + MAPPING_ANSWER[2:], b"\x00\x01" + MAPPING_ANSWER[2:]):
            self.assertIsNone(parse(data))
        for answer in (PCP_ANSWER, ADDRESS_ANSWER, MAPPING_ANSWER):
            for size in range(len(answer)):
                self.assertIsNone(parse(answer[:size]), answer[:size])
            self.assertIsNone(parse(answer + b"\0"))
        self.assertIsNone(parse(PCP_ANSWER + bytes(LONGEST)))


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
        """A search is sent to all devices, or to one."""
        self.assertEqual(
            search_request(MULTICAST),
            b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
            b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n",
        )
        self.assertIn(b"HOST: 192.168.1.1:1900\r\n", search_request(Address(ROUTER, 1900)))

    def test_answer(self) -> None:
        """Field names may be in any case, and carriage returns and spaces may be missing."""
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
