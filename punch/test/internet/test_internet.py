"""The simulated internet: time, links, UDP, hosts, names."""

from __future__ import annotations

import errno

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    AlreadyCalled,
    AlreadyCancelled,
    CannotListenError,
    InvalidAddressError,
    MessageLengthError,
)
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IUDPTransport,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from punch.test.internet import (
    Internet,
    InternetTestCase,
    LinkSpec,
    Seen,
    SimulationTimeout,
)
from punch.test.internet.clock import Clock, Livelock, Scheduler
from punch.test.internet.recorder import Recorder, bind


class ClockTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock(Scheduler())
        self.calls: list[str] = []

    def later(self, delay: float, name: str) -> IDelayedCall:
        return self.clock.callLater(delay, self.calls.append, name)

    def run_for(self, seconds: float) -> list[str]:
        scheduler = self.clock.scheduler
        scheduler.run_until(scheduler.now + seconds)
        return self.calls

    def test_order(self) -> None:
        """Calls are made in the order of their times, and for equal times in the order of `callLater`."""
        for delay, name in ((2, "c"), (1, "a"), (1, "b"), (3, "d")):
            self.later(delay, name)
        self.assertEqual(self.run_for(2), ["a", "b", "c"])
        self.assertEqual(self.clock.seconds(), 2)

    def test_reset_and_delay(self) -> None:
        sooner, later, delayed = self.later(5, "sooner"), self.later(1, "later"), self.later(2, "delayed")
        sooner.reset(1)
        later.reset(4)
        delayed.delay(1)
        self.assertEqual([call.getTime() for call in (sooner, later, delayed)], [1, 4, 3])
        self.assertEqual(self.run_for(10), ["sooner", "delayed", "later"])

    def test_reset_back_and_forth(self) -> None:
        call = self.later(10, "once")
        for delay in (5, 12, 3, 7):
            call.reset(delay)
        self.assertEqual(self.run_for(6.9), [])
        self.assertEqual(self.run_for(20), ["once"])

    def test_cancel(self) -> None:
        call = self.later(1, "never")
        self.assertTrue(call.active())
        call.cancel()
        self.assertFalse(call.active())
        self.assertRaises(AlreadyCancelled, call.cancel)
        self.assertEqual(self.run_for(2), [])
        done = self.later(1, "done")
        self.run_for(1)
        self.assertRaises(AlreadyCalled, done.reset, 1)

    def test_delayed_calls(self) -> None:
        first, second = self.later(1, "a"), self.later(2, "b")
        self.assertEqual(self.clock.getDelayedCalls(), [first, second])
        self.run_for(1)
        self.assertEqual(self.clock.getDelayedCalls(), [second])
        verifyObject(IDelayedCall, second)
        verifyObject(IReactorTime, self.clock)

    def test_cancelled_calls_take_no_memory(self) -> None:
        for _ in range(50_000):
            self.later(1e6, "never").cancel()
        self.assertLess(self.clock.scheduler.pending, 5_000)
        self.later(1, "kept")
        self.assertEqual(self.run_for(1), ["kept"])

    def test_negative_delay(self) -> None:
        self.assertRaises(ValueError, self.clock.callLater, -1, self.calls.append, "")

    def test_livelock(self) -> None:
        def again() -> None:
            self.clock.callLater(0, again)

        again()
        self.assertRaises(Livelock, self.run_for, 1)

    def test_pause(self) -> None:
        """Time stands still in a pause, also for what is asked in it; the wall clock goes on."""
        self.later(20, "b")
        self.later(10, "a")
        self.run_for(5)
        self.clock.pause(100)
        self.assertEqual(self.run_for(50), [])
        self.assertEqual(self.clock.seconds(), 5)
        self.later(2, "c")
        self.assertEqual(self.run_for(50), [])
        self.assertEqual(self.run_for(4), ["c"])
        self.assertEqual((self.clock.seconds(), self.clock.wall()), (9, 109))
        self.assertEqual(self.run_for(20), ["c", "a", "b"])

    def test_a_wall_clock_that_is_set(self) -> None:
        """A wall clock that is set does not affect delayed calls."""
        for seconds in (1, -1, 3600, -3600, 365 * 86400, -365 * 86400):
            self.later(10, "a")
            self.run_for(5)
            wall = self.clock.wall()
            self.clock.set_wall(seconds)
            self.assertEqual(self.clock.wall(), wall + seconds)
            self.assertEqual(self.run_for(4), [])
            self.assertEqual(self.run_for(2), ["a"])
            self.calls.clear()


class TimeTests(InternetTestCase):
    def test_advance(self) -> None:
        net = self.internet()
        net.advance(3.5)
        self.assertEqual((net.now, net.clock.seconds(), net.monotonic()), (3.5, 3.5, 3.5))

    def test_run_until(self) -> None:
        net = self.internet()
        calls: list[int] = []
        net.clock.callLater(7, calls.append, 1)
        net.run_until(lambda: calls, 10)
        self.assertEqual(net.now, 7)

    def test_wait(self) -> None:
        net = self.internet()
        deferred: Deferred[str] = Deferred()
        net.clock.callLater(2, deferred.callback, "result")
        self.assertEqual(net.wait(deferred, 10), "result")

    def test_wait_for_a_coroutine(self) -> None:
        net = self.internet()

        async def work() -> int:
            deferred: Deferred[int] = Deferred()
            net.clock.callLater(1, deferred.callback, 20)
            return await deferred + 1

        self.assertEqual(net.wait(work(), 10), 21)

    def test_failures_are_raised(self) -> None:
        net = self.internet()
        deferred: Deferred[None] = Deferred()
        net.clock.callLater(1, deferred.errback, ZeroDivisionError())
        self.assertRaises(ZeroDivisionError, net.wait, deferred, 10)

    def test_exceptions_of_timers_come_out(self) -> None:
        net = self.internet()
        net.host("a").reactor.callLater(1, lambda: 1 // 0)
        error = self.assertRaises(ZeroDivisionError, net.advance, 2)
        assert error.__traceback__ is not None
        self.assertEqual(net.now, 1)
        net.advance(5)

    def test_exceptions_of_datagrams_come_out(self) -> None:
        net = self.internet()
        host = net.host("a")

        class Broken(DatagramProtocol):
            def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
                raise ZeroDivisionError

        host.reactor.listenUDP(1000, Broken())
        bind(host).send(b"", "127.0.0.1", 1000)
        self.assertRaises(ZeroDivisionError, net.advance, 1)

    def test_timeout(self) -> None:
        net = self.internet()
        error = self.assertRaises(SimulationTimeout, net.run_until, lambda: False, 5, "the moon")
        self.assertIn("the moon: not in 5 s", str(error))
        self.assertRaises(SimulationTimeout, net.wait, Deferred(), 5)
        self.assertEqual(net.now, 10)

    def test_seed_from_the_environment(self) -> None:
        self.patch(__import__("os"), "environ", {"PUNCH_SEED": "77"})
        self.assertEqual(Internet(5).seed, 77)


class LinkTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet(3)

    def pair(self, spec: LinkSpec) -> tuple[Recorder, Recorder]:
        """Two public hosts; `spec` is the first one's link."""
        first, second = self.net.host("a", "198.51.100.1", link=spec), self.net.host("b", "198.51.100.2")
        return bind(first, 1000), bind(second, 1000, size=65507)

    def burst(self, spec: LinkSpec, count: int, size: int = 4, interval: float = 0.0) -> Recorder:
        sender, receiver = self.pair(spec)
        for number in range(count):
            sender.send(number.to_bytes(4, "big") + bytes(size - 4), "198.51.100.2", 1000)
            self.net.advance(interval)
        self.net.advance(1000)
        return receiver

    def test_delay(self) -> None:
        self.assertEqual(self.burst(LinkSpec(delay=0.25), 1).times, [0.25])

    def test_delay_is_each_way(self) -> None:
        first = self.net.host("a", "198.51.100.1", link=LinkSpec(delay=0.25))
        bind(self.net.host("b", "198.51.100.2"), 1000, echo=True)
        sender = bind(first)
        sender.send(b"", "198.51.100.2", 1000)
        self.net.advance(1)
        self.assertEqual(sender.times, [0.5])

    def test_jitter_keeps_order(self) -> None:
        receiver = self.burst(LinkSpec(delay=0.1, jitter=0.1), 200, interval=0.02)
        self.assertEqual(receiver.data, sorted(receiver.data))
        self.assertEqual(len(receiver.data), 200)
        delays = [time - number * 0.02 for number, time in enumerate(receiver.times)]
        self.assertGreaterEqual(min(delays), 0.1)
        self.assertLessEqual(max(delays), 0.2 + 1e-9)
        self.assertGreater(max(delays) - min(delays), 0.05)

    def test_loss(self) -> None:
        received = len(self.burst(LinkSpec(loss=0.2), 2000).data)
        self.assertTrue(1500 < received < 1700, received)

    def test_duplicates(self) -> None:
        data = self.burst(LinkSpec(duplicate=0.5), 200).data
        self.assertEqual(len(set(data)), 200)
        self.assertTrue(260 < len(data) < 340, len(data))

    def test_reordering(self) -> None:
        data = self.burst(LinkSpec(reorder=0.2), 200, interval=0.001).data
        self.assertEqual(len(data), 200)
        self.assertNotEqual(data, sorted(data))

    def test_rate(self) -> None:
        """1,000 bytes with 28 of headers at 8,224 bits a second: one packet a second."""
        receiver = self.burst(LinkSpec(rate=8224.0), 5, size=1000)
        self.assertEqual([round(time, 9) for time in receiver.times], [1, 2, 3, 4, 5])

    def test_queue_overflows(self) -> None:
        receiver = self.burst(LinkSpec(rate=8224.0, queue=3000), 100, size=1000)
        self.assertTrue(3 <= len(receiver.data) <= 5, len(receiver.data))

    def test_mtu(self) -> None:
        """1,472 bytes and 28 of headers are 1,500; one more is dropped."""
        sender, receiver = self.pair(LinkSpec())
        for size in (1472, 1473):
            sender.send(bytes(size), "198.51.100.2", 1000)
        self.net.advance(1)
        self.assertEqual([len(data) for data in receiver.data], [1472])

    def test_nothing_is_delivered_inside_a_call(self) -> None:
        sender, receiver = self.pair(LinkSpec())
        sender.send(b"", "198.51.100.2", 1000)
        self.assertEqual(receiver.data, [])
        self.net.advance(0)
        self.assertEqual(receiver.data, [b""])

    def test_nonsense(self) -> None:
        for options in ({"loss": 1.5}, {"delay": -1.0}, {"rate": 0.0}):
            self.assertRaises(ValueError, LinkSpec, **options)

    def test_trace(self) -> None:
        seen: list[Seen] = []
        self.net.trace = seen
        self.burst(LinkSpec(loss=1.0), 1)
        self.assertEqual(
            seen,
            [Seen(0, 32, ("198.51.100.1", 1000), ("198.51.100.2", 1000), "udp", bytes(4), "a up", "lost")],
        )

    def test_drop(self) -> None:
        self.net.drop = lambda packet: packet.size == 32
        self.assertEqual(self.burst(LinkSpec(), 1).data, [])


class UDPTests(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.host = self.net.host("a", "198.51.100.1", "2001:db8::1")
        self.other = self.net.host("b", "198.51.100.2", "2001:db8::2")

    def test_echo(self) -> None:
        bind(self.other, 3478, echo=True)
        bind(self.other, 3478, "2001:db8::2", echo=True)
        four, six = bind(self.host), bind(self.host, 0, "::")
        four.send(b"four", "198.51.100.2", 3478)
        six.send(b"six", "2001:db8::2", 3478)
        self.net.advance(1)
        self.assertEqual(four.received, [(b"four", ("198.51.100.2", 3478))])
        self.assertEqual(six.received, [(b"six", ("2001:db8::2", 3478))])

    def test_transport(self) -> None:
        recorder = bind(self.host, 1000)
        transport = recorder.transport
        assert transport is not None
        verifyObject(IUDPTransport, transport)
        self.assertEqual(transport.getHost(), IPv4Address("UDP", "0.0.0.0", 1000))
        six = bind(self.host, 2000, "::").transport
        assert six is not None
        self.assertEqual(six.getHost(), IPv6Address("UDP", "::", 2000))
        self.assertFalse(transport.getBroadcastAllowed())
        transport.setBroadcastAllowed(True)
        self.assertTrue(transport.getBroadcastAllowed())

    def test_port_in_use(self) -> None:
        bind(self.host, 1000)
        for interface in ("", "198.51.100.1", "::"):
            with self.assertRaises(CannotListenError) as caught:
                bind(self.host, 1000, interface)
            self.assertEqual(caught.exception.socketError.errno, errno.EADDRINUSE)
        bind(self.host, 1000, "2001:db8::1")
        bind(self.other, 1000)

    def test_address_of_another(self) -> None:
        with self.assertRaises(CannotListenError) as caught:
            bind(self.host, 1000, "198.51.100.2")
        self.assertEqual(caught.exception.socketError.errno, errno.EADDRNOTAVAIL)

    def test_stop_listening(self) -> None:
        stopped: list[bool] = []

        class Stopping(DatagramProtocol):
            def stopProtocol(self) -> None:
                stopped.append(True)

        port = self.host.reactor.listenUDP(1000, Stopping())
        self.assertEqual(self.host.reactor.open_ports, [port])
        done = port.stopListening()
        assert done is not None
        self.assertEqual(stopped, [])
        self.net.wait(done, 1)
        self.assertEqual((stopped, self.host.reactor.open_ports), ([True], []))
        bind(self.host, 1000)

    def test_dual_stack(self) -> None:
        """`::` takes IPv4 as well, in mapped form, and answers in that form."""
        bind(self.host, 1000, "::", echo=True)
        four = bind(self.other)
        four.send(b"hello", "198.51.100.1", 1000)
        self.net.advance(1)
        self.assertEqual(four.received, [(b"hello", ("198.51.100.1", 1000))])

    def test_bad_destinations(self) -> None:
        recorder = bind(self.host)
        self.assertRaises(InvalidAddressError, recorder.send, b"", "example.org", 1)
        self.assertRaises(InvalidAddressError, recorder.send, b"", "2001:db8::2", 1)
        self.assertRaises(InvalidAddressError, bind(self.host, 0, "::").send, b"", "198.51.100.2", 1)
        self.assertRaises(InvalidAddressError, bind, self.host, 0, "example.org")
        self.assertEqual(
            self.assertRaises(OSError, recorder.send, b"", "198.51.100.2", 0).errno, errno.EINVAL
        )
        local = bind(self.host, 0, "127.0.0.1")
        self.assertEqual(self.assertRaises(OSError, local.send, b"", "198.51.100.2", 1).errno, errno.EINVAL)

    def test_sizes(self) -> None:
        """The largest datagram goes through loopback; nobody sends more; a small buffer truncates."""
        large, small = bind(self.host, 1000, size=65507), bind(self.host, 2000, size=100)
        recorder = bind(self.host)
        recorder.send(bytes(65507), "127.0.0.1", 1000)
        recorder.send(b"", "127.0.0.1", 1000)
        recorder.send(bytes(200), "127.0.0.1", 2000)
        self.assertRaises(MessageLengthError, recorder.send, bytes(65508), "127.0.0.1", 1000)
        self.net.advance(1)
        self.assertEqual([len(data) for data in large.data], [65507, 0])
        self.assertEqual([len(data) for data in small.data], [100])

    def test_connected(self) -> None:
        recorder = bind(self.host)
        transport = recorder.transport
        assert transport is not None
        transport.connect("198.51.100.2", 1000)
        bind(self.other, 1000, echo=True)
        stranger = bind(self.other)
        transport.write(b"hello", None)
        stranger.send(b"psst", "198.51.100.1", transport.getHost().port)
        self.net.advance(1)
        self.assertEqual(recorder.data, [b"hello"])
        self.assertRaises(RuntimeError, transport.connect, "198.51.100.2", 1000)

    def test_own_addresses(self) -> None:
        """A host reaches itself by loopback and by each of its addresses, from that address."""
        bind(self.host, 1000, echo=True)
        for address in ("127.0.0.1", "198.51.100.1"):
            recorder = bind(self.host)
            recorder.send(b"me", address, 1000)
            self.net.advance(0)
            self.assertEqual(recorder.received, [(b"me", (address, 1000))])
