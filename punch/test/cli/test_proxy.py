"""The variables of the environment that name a proxy."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.local.rendezvous import proxy_variable


class ProxyTests(SynchronousTestCase):
    """Proxies are not used, which has to be known where only they lead out."""

    def test_variables(self) -> None:
        """The variables that name a proxy are found in either case; empty ones name none."""
        for name in (
            "HTTPS_PROXY",
            "https_proxy",
            "http_proxy",
            "HTTP_PROXY",
            "ALL_PROXY",
            "all_proxy",
            "SOCKS_PROXY",
        ):
            self.assertEqual(proxy_variable({name: "http://proxy:3128", "PATH": "/"}), name)
        self.assertIsNone(proxy_variable({"https_proxy": "", "HTTP_PROXY": " ", "no_proxy": "*"}))
        self.assertEqual(proxy_variable({"http_proxy": "a", "HTTPS_PROXY": "b"}), "HTTPS_PROXY")
