"""Why the rendezvous can't be reached, in sentences."""

from __future__ import annotations

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.node.control.problems import problem_of_failure, proxy_variable
from punch.wire.rendezvous_address import RendezvousAddress

ADDRESS = RendezvousAddress("rendezvous.example.org", 7001, None)


class ProxyTests(SynchronousTestCase):
    """Proxies are not used, which has to be known where only they lead out."""

    def test_variables(self) -> None:
        """What names a proxy, however it is written; empty ones name none."""
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

    def test_sentences(self) -> None:
        """Each failure says it, with the variable if there is one."""
        failures = (
            error.DNSLookupError(),
            error.ConnectionRefusedError(),
            error.TimeoutError(),
            error.NoRouteError(),
            error.ConnectError(),
        )
        for each in failures:
            failure = Failure(each)
            without = problem_of_failure(ADDRESS, failure).text
            refused = isinstance(each, error.ConnectionRefusedError)
            self.assertEqual("Punch uses no proxy" in without, not refused, without)
            named = problem_of_failure(ADDRESS, failure, "HTTPS_PROXY").text
            self.assertIn("(HTTPS_PROXY), but Punch uses none", named)
            self.assertIn("rendezvous", named)

    def test_this_machine(self) -> None:
        """No proxy leads to it."""
        failure = Failure(error.TimeoutError())
        for host in ("127.0.0.1", "::1", "localhost"):
            problem = problem_of_failure(RendezvousAddress(host, 7001, None), failure, "HTTPS_PROXY")
            self.assertNotIn("proxy", problem.text)
