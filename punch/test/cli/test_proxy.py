"""Which proxy is used: that of the command line, or of the environment."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.local.rendezvous import BadProxy, choose_proxy, proxy_sentence


class ProxyTests(SynchronousTestCase):
    def test_command_line(self) -> None:
        """It goes before the environment, and nothing goes past it."""
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
