"""Proxies: their addresses, and what is said to them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.wire.proxy import (
    MAX_HEAD,
    ProxyAddress,
    ProxyError,
    ProxyKind,
    ProxyRefusal,
    ProxySettings,
    handshake,
    proxy_of_environment,
)

PLAIN = ProxyAddress(ProxyKind.HTTP, "proxy", 3128)
NAMED = ProxyAddress(ProxyKind.HTTP, "proxy", 3128, "Aladdin", "open sesame")
SOCKS = ProxyAddress(ProxyKind.SOCKS5, "proxy", 1080)
SOCKS_NAMED = ProxyAddress(ProxyKind.SOCKS5, "proxy", 1080, "me", "päss")


class AddressTests(SynchronousTestCase):
    """What users write."""

    def test_urls(self) -> None:
        for text, expected in (
            ("http://proxy:3128", PLAIN),
            (" proxy:3128 ", PLAIN),
            ("HTTP://Proxy", PLAIN),
            ("http://Aladdin:open%20sesame@proxy:3128/", NAMED),
            ("https://proxy.example", ProxyAddress(ProxyKind.HTTPS, "proxy.example", 443)),
            ("socks5://proxy", SOCKS),
            ("socks5h://proxy:1080", SOCKS),
            ("socks://me:p%C3%A4ss@proxy", SOCKS_NAMED),
            ("socks5://[2001:db8::1]:9050", ProxyAddress(ProxyKind.SOCKS5, "2001:db8::1", 9050)),
        ):
            self.assertEqual(ProxyAddress.parse(text), expected, text)
        self.assertEqual(ProxyAddress.parse("http://[::1]:1").location, "[::1]:1")
        self.assertNotIn("sesame", repr(NAMED))

    def test_bad_urls(self) -> None:
        """The sentence never shows the password."""
        for text in (
            "",
            "http://",
            "http://proxy:0",
            "http://proxy:70000",
            "http://proxy:x",
            "http://:3128",
            "socks4://proxy",
            "ftp://proxy",
            "http://pro xy",
            "http://proxy\r\nx:1",
            "http://[::1",
            "http://" + "u" * 256 + ":secret@proxy",
        ):
            error = self.assertRaises(ValueError, ProxyAddress.parse, text)
            self.assertNotIn("secret", str(error))

    def test_environment(self) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy", "SOCKS_PROXY"):
            found = proxy_of_environment({name: "http://proxy:3128", "PATH": "/"})
            self.assertEqual(found, ProxySettings(PLAIN, name, excluded=("",)))
        self.assertIsNone(proxy_of_environment({"https_proxy": "", "HTTP_PROXY": " ", "no_proxy": "*"}))
        found = proxy_of_environment({"http_proxy": "a", "HTTPS_PROXY": "b"})
        assert found is not None
        self.assertEqual(found.source, "HTTPS_PROXY")
        error = self.assertRaises(ValueError, proxy_of_environment, {"all_proxy": "socks4://x"})
        self.assertTrue(str(error).startswith("all_proxy: "))

    def test_excluded(self) -> None:
        """NO_PROXY, and this machine."""
        environ = {"all_proxy": "proxy", "NO_PROXY": "example.org, .lan,192.0.2.1, [2001:db8::1]"}
        found = proxy_of_environment(environ)
        assert found is not None
        for host in ("example.org", "a.example.org.", "x.LAN", "192.0.2.1", "2001:db8::1"):
            self.assertFalse(found.leads_to(host), host)
        for host in ("badexample.org", "192.0.2.11", "2001:db8::2", "org"):
            self.assertTrue(found.leads_to(host), host)
        for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::1%lo"):
            self.assertFalse(ProxySettings(PLAIN, "--proxy", required=True).leads_to(host), host)
        self.assertFalse(ProxySettings(PLAIN, "x", excluded=("*",)).leads_to("example.org"))


class HttpTests(SynchronousTestCase):
    """CONNECT."""

    def refusal(self, answer: bytes) -> tuple[ProxyRefusal, str]:
        """Also when it comes byte by byte."""
        found = []
        for size in (1, len(answer)):
            said = handshake(PLAIN, "rv.example", 7001)
            with self.assertRaises(ProxyError) as caught:
                for at in range(0, len(answer), size):
                    said.receive(answer[at : at + size])
            found.append((caught.exception.refusal, caught.exception.detail))
        self.assertEqual(found[0], found[1])
        return found[0]

    def test_request(self) -> None:
        self.assertEqual(
            handshake(NAMED, "2001:db8::1", 7001).begin(),
            b"CONNECT [2001:db8::1]:7001 HTTP/1.1\r\nHost: [2001:db8::1]:7001\r\n"
            b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n",
        )
        self.assertEqual(
            handshake(PLAIN, "rv.example", 7001).begin(),
            b"CONNECT rv.example:7001 HTTP/1.1\r\nHost: rv.example:7001\r\n\r\n",
        )
        self.assertEqual(
            handshake(PLAIN, "fe80::1%x\r\nX: y", 1).begin(),
            b"CONNECT [fe80::1]:1 HTTP/1.1\r\nHost: [fe80::1]:1\r\n\r\n",
        )

    def test_through(self) -> None:
        answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n"
        for size in (1, 7, len(answer)):
            said = handshake(PLAIN, "rv.example", 7001)
            for at in range(0, len(answer), size):
                self.assertIsNone(said.rest)
                self.assertEqual(said.receive(answer[at : at + size]), b"")
            self.assertEqual(said.rest, b"")
        said = handshake(PLAIN, "rv.example", 7001)
        said.receive(answer + b"\x16\x03")
        self.assertEqual(said.rest, b"\x16\x03")

    def test_refusals(self) -> None:
        for status, refusal in (
            (407, ProxyRefusal.AUTHENTICATION),
            (403, ProxyRefusal.FORBIDDEN),
            (502, ProxyRefusal.UNREACHABLE),
            (429, ProxyRefusal.FAILED),
            (302, ProxyRefusal.FAILED),
        ):
            answer = b"HTTP/1.1 %d Some\xffthing\r\nX: y\r\n\r\n" % status
            self.assertEqual(self.refusal(answer), (refusal, f"HTTP {status}"))

    def test_no_proxy(self) -> None:
        for answer in (
            b"SSH-2.0-OpenSSH\r\n",
            b"\x05\x00",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 \r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"x" * MAX_HEAD,
            b"HTTP/1.1 100\r\n\r\n" * (MAX_HEAD // 16 + 2),
        ):
            self.assertEqual(self.refusal(answer), (ProxyRefusal.NOT_A_PROXY, ""))


class SocksTests(SynchronousTestCase):
    """SOCKS5."""

    def talk(self, proxy: ProxyAddress, host: str, *answers: bytes) -> list[bytes]:
        """What is said, the same whether answers come whole or byte by byte."""
        found = []
        for whole in (True, False):
            said = handshake(proxy, host, 7001)
            spoken = [said.begin()]
            for answer in answers:
                pieces = [answer] if whole else [bytes([each]) for each in answer]
                spoken.append(b"".join(said.receive(piece) for piece in pieces))
            self.assertEqual(said.rest, b"")
            found.append(spoken)
        self.assertEqual(found[0], found[1])
        return found[0]

    def test_through(self) -> None:
        reply = bytes.fromhex("05 00 00 01 c0000201 1b59")
        for host, encoded in (
            ("192.0.2.33", "01 c0000221"),
            ("2001:db8::1", "04 20010db8000000000000000000000001"),
            ("rv.example", "03 0a" + b"rv.example".hex()),
        ):
            self.assertEqual(
                self.talk(SOCKS, host, b"\x05\x00", reply),
                [b"\x05\x01\x00", bytes.fromhex(f"05 01 00 {encoded} 1b59"), b""],
            )
        for bound in ("03 05 68656c6c6f 0000", "04" + "00" * 18):
            self.talk(SOCKS, "rv.example", b"\x05\x00", bytes.fromhex(f"05 00 00 {bound}"))

    def test_password(self) -> None:
        spoken = self.talk(
            SOCKS_NAMED, "192.0.2.33", b"\x05\x02", b"\x01\x00", bytes.fromhex("05 00 00 01 00000000 0000")
        )
        self.assertEqual(spoken[:2], [b"\x05\x02\x00\x02", b"\x01\x02me\x05p\xc3\xa4ss"])
        self.assertEqual(spoken[2][:3], b"\x05\x01\x00")

    def test_refusals(self) -> None:
        for proxy, answers, refusal in (
            (SOCKS, [b"\x05\xff"], ProxyRefusal.AUTHENTICATION),
            (SOCKS, [b"\x05\x02"], ProxyRefusal.AUTHENTICATION),
            (SOCKS_NAMED, [b"\x05\x02", b"\x01\x01"], ProxyRefusal.AUTHENTICATION),
            (SOCKS, [b"HTTP/1.0 400"], ProxyRefusal.NOT_A_PROXY),
            (SOCKS, [b"\x05\x00", b"\x05\x02"], ProxyRefusal.FORBIDDEN),
            (SOCKS, [b"\x05\x00", b"\x05\x05"], ProxyRefusal.UNREACHABLE),
            (SOCKS, [b"\x05\x00", b"\x05\x07"], ProxyRefusal.FAILED),
            (SOCKS, [b"\x05\x00", b"\x05\x00\x00\x09\x00"], ProxyRefusal.NOT_A_PROXY),
        ):
            said = handshake(proxy, "192.0.2.33", 7001)
            with self.assertRaises(ProxyError) as caught:
                for answer in answers:
                    said.receive(answer)
            self.assertEqual(caught.exception.refusal, refusal)

    def test_what_follows(self) -> None:
        said = handshake(SOCKS, "192.0.2.33", 7001)
        said.receive(b"\x05\x00" + bytes.fromhex("05 00 00 01 00000000 0000") + b"more")
        self.assertEqual(said.rest, b"more")

    def test_names(self) -> None:
        self.assertRaises(ValueError, handshake, SOCKS, "x" * 256, 7001)
