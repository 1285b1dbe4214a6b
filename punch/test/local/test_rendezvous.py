"""Which rendezvous and which proxy are used, and what the user is told if none can be."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.local.rendezvous import (
    BadProxy,
    NoRendezvous,
    choose_proxy,
    choose_rendezvous,
    proxy_sentence,
    rendezvous_sentence,
)
from punch.state import StateDirectory


class RendezvousTests(SynchronousTestCase):
    def sentence(self, given: str | None, environ: dict[str, str]) -> str:
        """Return what the user is told if no rendezvous is known or an address is wrong."""
        state = StateDirectory(Path(self.mktemp()))
        error = self.assertRaises(NoRendezvous, choose_rendezvous, given, state, "bob", environ)
        return rendezvous_sentence(error)

    def test_none(self) -> None:
        self.assertRegex(self.sentence(None, {}), r"^No rendezvous is known: .*--rendezvous punch://")

    def test_a_wrong_address(self) -> None:
        """The sentence says which option or variable has the wrong address."""
        wrong = "A rendezvous address begins with punch://, not with 'http'."
        self.assertEqual(self.sentence("http://x", {}), f"--rendezvous: {wrong}")
        environ = {"PUNCH_RENDEZVOUS": "http://x"}
        self.assertEqual(self.sentence(None, environ), f"PUNCH_RENDEZVOUS: {wrong}")


class ProxyTests(SynchronousTestCase):
    """Which proxy is used: that of the command line, or of the environment."""

    def test_command_line(self) -> None:
        """The command line comes before the environment, and a proxy that it names must be used."""
        environ = {"https_proxy": "http://other:1"}
        chosen = choose_proxy("socks5://proxy:1080", environ)
        assert chosen is not None
        self.assertEqual((chosen.proxy.location, chosen.source), ("proxy:1080", "--proxy"))
        self.assertTrue(chosen.required)
        for none in ("none", "None", ""):
            self.assertIsNone(choose_proxy(none, environ))

    def test_environment(self) -> None:
        chosen = choose_proxy(None, {"HTTPS_PROXY": "proxy:8080"})
        assert chosen is not None
        self.assertEqual((chosen.proxy.location, chosen.source), ("proxy:8080", "HTTPS_PROXY"))
        self.assertFalse(chosen.required)
        self.assertIsNone(choose_proxy(None, {}))

    def test_bad_ones(self) -> None:
        error = self.assertRaises(BadProxy, choose_proxy, "socks4://proxy", {})
        self.assertEqual(
            proxy_sentence(error), "--proxy: a proxy can't be used with socks4: use http, https or socks5."
        )
        error = self.assertRaises(BadProxy, choose_proxy, None, {"all_proxy": "http://"})
        self.assertEqual(
            proxy_sentence(error),
            "all_proxy: a proxy is given as http://host:port or socks5://host:port; correct it, or give "
            "--proxy none.",
        )
