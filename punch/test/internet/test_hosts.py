"""The simulated internet: who reaches whom, what befalls hosts, what their reactors provide."""

from __future__ import annotations

import errno

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorFromThreads,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
)
from zope.interface.verify import verifyObject

from punch.test.internet import NAT, Filtering, Firewall, Host, InternetTestCase, LinkSpec, Mapping
from punch.test.internet.recorder import bind


class TopologyTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.server = bind(self.net.host("server", "198.51.100.1", "2001:db8::1"), 3478, echo=True)

    def ask(self, host: Host) -> tuple[str, int]:
        """The address that the server sees."""
        recorder = bind(host)
        recorder.send(b"?", "198.51.100.1", 3478)
        self.net.advance(1)
        self.assertEqual(recorder.received, [(b"?", ("198.51.100.1", 3478))])
        return self.server.received[-1][1]

    def test_addresses_on_a_lan(self) -> None:
        lan = self.net.lan("home", "192.168.1.0/24", ipv6="2001:db8:1::/64", nat=NAT())
        self.assertEqual(lan.host("a").addresses, ["192.168.1.2", "2001:db8:1::2"])
        self.assertEqual(lan.host("b").addresses, ["192.168.1.3", "2001:db8:1::3"])
        self.assertEqual(lan.host("c", "192.168.1.9").addresses, ["192.168.1.9"])
        self.assertEqual(lan.gateway, "192.168.1.1")
        self.assertRaises(ValueError, lan.host, "d", "192.168.1.9")
        self.assertRaises(ValueError, lan.host, "a")

    def test_nat(self) -> None:
        lan = self.net.lan("home", "192.168.1.0/24", nat=NAT(public="203.0.113.1"))
        self.assertEqual(self.ask(lan.host("a"))[0], "203.0.113.1")

    def test_cgnat(self) -> None:
        carrier = self.net.lan("carrier", "100.64.0.0/10", nat=NAT(public="203.0.113.1"))
        inner = NAT()
        home = carrier.lan("home", "192.168.1.0/24", nat=inner)
        self.assertEqual(self.ask(home.host("a"))[0], "203.0.113.1")
        self.assertEqual(inner.public, "100.64.0.2")

    def test_renumber(self) -> None:
        nat = NAT(public="203.0.113.1")
        lan = self.net.lan("home", "192.168.1.0/24", nat=nat)
        host = lan.host("a")
        self.ask(host)
        nat.renumber("203.0.113.99")
        self.assertEqual(self.ask(host)[0], "203.0.113.99")

    def test_on_one_lan(self) -> None:
        """Packets between two hosts on a LAN pass by its router, slow as that may be."""
        lan = self.net.lan("home", "192.168.1.0/24", nat=NAT(), link=LinkSpec(delay=5))
        receiver = bind(lan.host("a", "192.168.1.7"), 1000)
        bind(lan.host("b", "192.168.1.8"), 2000).send(b"hi", "192.168.1.7", 1000)
        self.net.advance(0)
        self.assertEqual(receiver.received, [(b"hi", ("192.168.1.8", 2000))])

    def test_equal_private_networks(self) -> None:
        """A private address of another LAN is not reached, though the same subnet is there."""
        first = self.net.lan("first", "192.168.1.0/24", nat=NAT())
        second = self.net.lan("second", "10.0.0.0/24", nat=NAT())
        receiver = bind(first.host("a", "192.168.1.7"), 1000)
        bind(second.host("b")).send(b"hi", "192.168.1.7", 1000)
        self.net.advance(1)
        self.assertEqual(receiver.data, [])

    def test_hole_punching(self) -> None:
        """Two endpoint-independent mappings, the strictest filters: both must send first."""
        hosts = []
        for name, subnet in (("a", "192.168.1.0/24"), ("b", "10.0.0.0/24")):
            lan = self.net.lan(name, subnet, nat=NAT(mapping=Mapping.EIM, filtering=Filtering.APDF))
            hosts.append(bind(lan.host(f"host {name}"), 1000))
        seen = []
        for recorder in hosts:
            recorder.send(b"?", "198.51.100.1", 3478)
            self.net.advance(1)
            seen.append(self.server.received[-1][1])
        hosts[0].send(b"lost", *seen[1])
        self.net.advance(1)
        hosts[1].send(b"through", *seen[0])
        self.net.advance(1)
        hosts[0].send(b"back", *seen[1])
        self.net.advance(1)
        self.assertEqual(hosts[0].data[1:], [b"through"])
        self.assertEqual(hosts[1].data[1:], [b"back"])

    def test_ipv6_is_not_translated(self) -> None:
        lan = self.net.lan("home", "192.168.1.0/24", ipv6="2001:db8:1::/64", nat=NAT())
        bind(self.net.hosts["server"], 1000, "::", echo=True)
        recorder = bind(lan.host("a"), 2000, "::")
        recorder.send(b"hi", "2001:db8::1", 1000)
        self.net.advance(1)
        self.assertEqual(recorder.received, [(b"hi", ("2001:db8::1", 1000))])

    def unsolicited(self, firewall: Firewall | None) -> list[bytes]:
        carrier = self.net.lan("carrier", "100.64.0.0/10", ipv6="2001:db8:1::/48", nat=NAT())
        lan = carrier.lan("home", "10.0.0.0/8", ipv6="2001:db8:1:1::/64", nat=NAT(), firewall=firewall)
        receiver = bind(lan.host("a", "2001:db8:1:1::7"), 2000, "::")
        bind(self.net.hosts["server"], 1000, "::").send(b"hi", "2001:db8:1:1::7", 2000)
        self.net.advance(1)
        return receiver.data

    def test_ipv6_without_firewall(self) -> None:
        self.assertEqual(self.unsolicited(None), [b"hi"])

    def test_ipv6_with_firewall(self) -> None:
        self.assertEqual(self.unsolicited(Firewall()), [])

    def test_lan_with_public_addresses(self) -> None:
        lan = self.net.lan("office", "203.0.113.128/25")
        self.assertEqual(self.ask(lan.host("a"))[0], "203.0.113.130")

    def test_isolated_lan(self) -> None:
        lan = self.net.lan("island", "10.0.0.0/24", isolated=True)
        recorder = bind(lan.host("a"))
        error = self.assertRaises(OSError, recorder.send, b"", "198.51.100.1", 3478)
        self.assertEqual(error.errno, errno.ENETUNREACH)
        self.assertRaises(ValueError, lambda: lan.uplink)

    def test_two_lans(self) -> None:
        """A host on two LANs sends from the address that its socket is bound to, by that interface."""
        first = self.net.lan("first", "192.168.1.0/24", nat=NAT(public="203.0.113.1"))
        second = self.net.lan("second", "10.0.0.0/24", nat=NAT(public="203.0.113.2"))
        host = first.host("a")
        host.attach(second)
        self.assertEqual(host.addresses, ["192.168.1.2", "10.0.0.2"])
        self.assertEqual(self.ask(host)[0], "203.0.113.1")
        bind(host, 0, "10.0.0.2").send(b"?", "198.51.100.1", 3478)
        self.net.advance(1)
        self.assertEqual(self.server.received[-1][1][0], "203.0.113.2")
        host.detach(first)
        self.assertEqual(self.ask(host)[0], "203.0.113.2")


class FateTests(InternetTestCase):
    """What can befall a host."""

    def setUp(self) -> None:
        self.net = self.internet()
        self.host = self.net.host("a", "198.51.100.1")
        self.peer = bind(self.net.host("b", "198.51.100.2"), 1000)
        self.recorder = bind(self.host, 1000)

    def exchange(self) -> tuple[list[bytes], list[bytes]]:
        """Send both ways; gives what has arrived."""
        self.recorder.send(b"out", "198.51.100.2", 1000)
        self.peer.send(b"in", "198.51.100.1", 1000)
        self.net.advance(1)
        return self.recorder.data, self.peer.data

    def test_down_and_up(self) -> None:
        self.host.down()
        self.assertEqual(self.exchange(), ([], []))
        self.host.up()
        self.assertEqual(self.exchange(), ([b"in"], [b"out"]))

    def test_uplink_cut(self) -> None:
        lan = self.net.lan("home", "192.168.1.0/24", nat=NAT())
        recorder = bind(lan.host("c"))
        lan.uplink.set_up(False)
        recorder.send(b"lost", "198.51.100.2", 1000)
        self.net.advance(1)
        lan.uplink.set_up(True)
        lan.uplink.set_spec(LinkSpec(delay=3))
        recorder.send(b"late", "198.51.100.2", 1000)
        self.net.advance(5)
        self.assertEqual((self.peer.data, self.peer.times), ([b"late"], [4]))

    def test_sleep(self) -> None:
        woken: list[float] = []
        self.host.reactor.callLater(10, lambda: woken.append(self.net.now))
        self.net.advance(1)
        self.host.sleep(3600)
        self.peer.send(b"in", "198.51.100.1", 1000)
        self.net.advance(3599)
        self.assertEqual((woken, self.recorder.data), ([], []))
        self.net.advance(10)
        self.assertEqual((woken, self.host.monotonic(), self.host.wall()), ([3610], 10, 3610))
        self.assertEqual(self.exchange(), ([b"in"], [b"out"]))

    def test_move(self) -> None:
        lan = self.net.lan("home", "192.168.1.0/24", nat=NAT(public="203.0.113.1"))
        bound = bind(self.host, 2000, "198.51.100.1")
        self.host.move(lan)
        self.assertEqual(self.host.addresses, ["192.168.1.2"])
        self.recorder.send(b"out", "198.51.100.2", 1000)
        self.net.advance(1)
        self.assertEqual(self.peer.received[0][1][0], "203.0.113.1")
        error = self.assertRaises(OSError, bound.send, b"", "198.51.100.2", 1000)
        self.assertEqual(error.errno, errno.EADDRNOTAVAIL)

    def test_kill(self) -> None:
        self.host.reactor.callLater(1, self.fail)
        self.host.kill()
        self.peer.send(b"in", "198.51.100.1", 1000)
        self.net.advance(5)
        self.assertEqual(self.recorder.data, [])
        self.assertEqual(self.host.reactor.getDelayedCalls(), [])
        bind(self.host, 1000)

    def test_crash(self) -> None:
        self.host.crash()
        self.host.up()
        recorder = bind(self.host, 1000)
        self.peer.send(b"in", "198.51.100.1", 1000)
        self.net.advance(1)
        self.assertEqual((self.recorder.data, recorder.data), ([], [b"in"]))


class ReactorTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.reactor = self.net.host("a").reactor

    def test_interfaces(self) -> None:
        for interface in (
            IReactorCore,
            IReactorFromThreads,
            IReactorPluggableNameResolver,
            IReactorTCP,
            IReactorTime,
            IReactorUDP,
        ):
            verifyObject(interface, self.reactor)
        self.assertFalse(IReactorFDSet.providedBy(self.reactor))

    def test_shutdown(self) -> None:
        order: list[str] = []
        late: Deferred[None] = Deferred()

        def trigger(name: str) -> Deferred[None] | None:
            order.append(name)
            return late if name == "before" else None

        for phase in ("after", "during", "before"):
            self.reactor.addSystemEventTrigger(phase, "shutdown", trigger, phase)
        removed = self.reactor.addSystemEventTrigger("before", "shutdown", self.fail)
        self.reactor.removeSystemEventTrigger(removed)
        done = self.reactor.host.shutdown()
        self.assertEqual(order, ["before"])
        self.reactor.callLater(3, late.callback, None)
        self.net.wait(done, 5)
        self.assertEqual((order, self.net.now), (["before", "during", "after"], 3))

    def test_shutdown_error(self) -> None:
        self.reactor.addSystemEventTrigger("before", "shutdown", lambda: 1 // 0)
        self.assertRaises(ZeroDivisionError, self.net.wait, self.reactor.host.shutdown(), 1)

    def test_call_from_thread_and_when_running(self) -> None:
        calls: list[str] = []
        self.reactor.callFromThread(calls.append, "thread")
        self.reactor.callWhenRunning(calls.append, "running")
        self.net.advance(0)
        self.assertEqual(calls, ["running", "thread"])

    def test_resolve(self) -> None:
        self.net.dns["rv.example"] = ["2001:db8::1", "198.51.100.1"]
        self.assertEqual(self.net.wait(self.reactor.resolve("rv.example"), 1), "198.51.100.1")
        self.assertEqual(self.net.wait(self.reactor.resolve("localhost"), 1), "127.0.0.1")
