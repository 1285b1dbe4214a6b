"""Why the rendezvous can't be reached."""

from __future__ import annotations

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.node.causes import ProblemCode
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

    def test_codes(self) -> None:
        """Each failure has its code, and names the proxy."""
        for each, code in (
            (error.DNSLookupError(), ProblemCode.NAME_UNKNOWN),
            (error.ConnectionRefusedError(), ProblemCode.REFUSED),
            (error.TimeoutError(), ProblemCode.TIMEOUT),
            (error.NoRouteError(), ProblemCode.UNREACHABLE),
            (error.ConnectError(), ProblemCode.UNREACHABLE),
        ):
            problem = problem_of_failure(ADDRESS, Failure(each), "HTTPS_PROXY")
            self.assertEqual((problem.code, problem.proxy), (code, "HTTPS_PROXY"))
            self.assertEqual((problem.reason, problem.fatal), ("rendezvous-unreachable", False))
