"""Nothing under `punch` touches the global reactor when it is imported; the ban that shows it works."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from types import ModuleType

import twisted.internet
from twisted.internet.endpoints import TCP4ServerEndpoint, clientFromString
from twisted.internet.interfaces import IReactorCore
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides

import punch
from punch.test.internet import InternetTestCase
from punch.test.no_reactor import BannedReactor, ReactorUsed, fresh_import, no_reactor, reactors_held

# Libraries that a default install lacks; the modules that adapt them can't be imported without.
_OPTIONAL = {"aioquic", "prompt_toolkit", "segno", "spake2", "wsproto"}


def production_modules() -> list[str]:
    """Every module of the package but the tests."""
    found = pkgutil.walk_packages(punch.__path__, "punch.")
    return [each.name for each in found if not each.name.startswith("punch.test")]


class BanTests(SynchronousTestCase):
    def test_use_raises(self) -> None:
        with self.assertRaises(ReactorUsed), no_reactor():
            from twisted.internet import reactor

            reactor.callLater(0, print)

    def test_assignment_raises(self) -> None:
        with self.assertRaises(ReactorUsed), no_reactor():
            from twisted.internet import reactor

            reactor.running = True

    def test_import_of_the_module_is_caught(self) -> None:
        with self.assertRaises(ReactorUsed), no_reactor():
            sys.modules["twisted.internet.reactor"].run()

    def test_swallowed_use_raises_at_the_end(self) -> None:
        with self.assertRaises(ReactorUsed) as caught, no_reactor():
            from twisted.internet import reactor

            try:
                reactor.stop()
            except AssertionError:
                swallowed = True
        self.assertTrue(swallowed)
        self.assertIn("reactor.stop", str(caught.exception))
        self.assertIn("test_no_reactor.py", str(caught.exception))

    def test_mention_is_no_use(self) -> None:
        with no_reactor():
            from twisted.internet import reactor

            self.assertIsNotNone(reactor)

    def test_everything_is_back_afterwards(self) -> None:
        before = sys.modules.get("twisted.internet.reactor"), getattr(twisted.internet, "reactor", None)
        with no_reactor():
            self.assertIsNot(getattr(twisted.internet, "reactor", None), before[1])
        after = sys.modules.get("twisted.internet.reactor"), getattr(twisted.internet, "reactor", None)
        self.assertEqual(before, after)

    def test_nested(self) -> None:
        with no_reactor() as outer:
            with no_reactor():
                self.assertIsNot(sys.modules["twisted.internet.reactor"], outer)
            self.assertIs(sys.modules["twisted.internet.reactor"], outer)


class BannedTestCaseTests(InternetTestCase):
    def setUp(self) -> None:
        self.assertIsInstance(sys.modules["twisted.internet.reactor"], BannedReactor)

    def test_simulated_tests_have_none(self) -> None:
        """`InternetTestCase` bans it, from `setUp` on; Twisted's endpoints do without."""
        self.assertIsInstance(sys.modules["twisted.internet.reactor"], BannedReactor)
        net = self.internet()
        host = net.host("a")
        net.wait(TCP4ServerEndpoint(host.reactor, 1).listen(Factory.forProtocol(Protocol)), 1)
        connected = clientFromString(host.reactor, "tcp:127.0.0.1:1").connect(Factory.forProtocol(Protocol))
        net.wait(connected, 1)


class ProductionTests(SynchronousTestCase):
    def test_imports(self) -> None:
        """Each module is imported anew, alone with the ban; none keeps a reactor in a global variable."""
        imported = []
        with fresh_import("punch"), no_reactor():
            for name in production_modules():
                try:
                    imported.append(import_module(name).__name__)
                except ModuleNotFoundError as missing:
                    self.assertIn((missing.name or "").partition(".")[0], _OPTIONAL, name)
            self.assertEqual(reactors_held("punch"), [])
        self.assertIn("punch.wire.address", imported)

    def test_held_reactors_are_found(self) -> None:
        class Held:
            pass

        held = Held()
        directlyProvides(held, IReactorCore)
        module = ModuleType("punch_that_holds")
        vars(module)["reactor"] = held
        sys.modules[module.__name__] = module
        self.addCleanup(sys.modules.pop, module.__name__)
        self.assertEqual(reactors_held(module.__name__), ["punch_that_holds.reactor"])

    def test_fresh_import_gives_the_old_modules_back(self) -> None:
        from punch.wire import address

        with fresh_import("punch"):
            self.assertIsNot(import_module("punch.wire.address"), address)
        self.assertIs(import_module("punch.wire.address"), address)
        self.assertIs(sys.modules["punch"], punch)
