"""The simulated internet as a whole: its hosts and networks, its time and its randomness."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.test.internet.clock import Clock, Scheduler
from punch.test.internet.host import Host
from punch.test.internet.links import LinkSpec, Tracer, Wire
from punch.test.internet.nat import NAT, Firewall
from punch.test.internet.network import Lan, Network
from punch.test.internet.packet import Packet, Seen

T = TypeVar("T")
Awaited: TypeAlias = Deferred[T] | Coroutine[Deferred[Any], Any, T] | Generator[Deferred[Any], Any, T]

UPLINK = LinkSpec(delay=0.01)
"""The default properties of a LAN's link to the network outside."""


class SimulationTimeout(AssertionError):
    """A condition did not become true within the given simulated time."""


class Internet:
    """
    A simulated internet. One seed gives one run; `PUNCH_SEED` in the environment replaces every seed.

    :ivar dns: the addresses of each name; hosts get them `dns_delay` seconds after they ask.
    :ivar announce: whether an exception from `advance`, `run_until` or `wait` prints the seed, once.
    :ivar drop: called with every packet in every network; the packet is lost if it returns True.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = int(os.environ.get("PUNCH_SEED", seed))
        self.scheduler = Scheduler()
        self.clock = Clock(self.scheduler)
        self.dns: dict[str, list[str]] = {}
        self.dns_delay = 0.0
        self.drop: Callable[[Packet], bool] | None = None
        self.hosts: dict[str, Host] = {}
        self.lans: dict[str, Lan] = {}
        self._wires: list[Wire] = []
        self._trace: list[Seen] | Callable[[Seen], object] | None = None
        self._sequence = 0
        self.announce = True
        self.public = Network(self, "internet")

    # -- building --

    def host(self, name: str, *addresses: str, link: LinkSpec | None = None) -> Host:
        """A new host on the public internet, under the given addresses or else a free one."""
        return self.new_host(name, self.public, addresses, link)

    def new_host(
        self, name: str, network: Network, addresses: tuple[str, ...], link: LinkSpec | None = None
    ) -> Host:
        """
        A new host.

        :raise ValueError: its name or an address is taken.
        """
        if name in self.hosts:
            raise ValueError(f"there is a host {name} already")
        host = Host(self, name)
        host.attach(network, addresses, link)
        self.hosts[name] = host
        return host

    def lan(
        self,
        name: str,
        subnet: str | None = None,
        *,
        ipv6: str | None = None,
        nat: NAT | None = None,
        firewall: Firewall | None = None,
        link: LinkSpec | None = None,
        link_down: LinkSpec | None = None,
        host_link: LinkSpec | None = None,
        parent: Network | None = None,
        isolated: bool = False,
    ) -> Lan:
        """
        A new LAN behind a router.

        :param subnet: its IPv4 subnet, for instance `192.168.1.0/24`.
        :param ipv6: its IPv6 prefix; its hosts are reached without translation.
        :param nat: without one, IPv4 is routed like IPv6.
        :param firewall: what the router lets through, both families.
        :param link: from the router to the network outside, and back unless `link_down` is given.
        :param host_link: between its hosts and the router; by default without delay.
        :param parent: the network outside, by default the public internet.
        :param isolated: no router at all.
        :raise ValueError: no subnet at all, or the name or an address is taken.
        """
        subnets = [each for each in (subnet, ipv6) if each is not None]
        if not subnets or name in self.lans:
            raise ValueError(f"a LAN needs a subnet, and a name of its own: {name}")
        up = UPLINK if link is None else link
        down = up if link_down is None else link_down
        outside = None if isolated else parent or self.public
        lan = Lan(self, name, subnets, outside, nat, firewall, up, down, host_link or LinkSpec())
        self.lans[name] = lan
        return lan

    def wire(self, name: str, spec: LinkSpec) -> Wire:
        """One direction of a new link."""
        wire = Wire(name, spec, self.scheduler, self.random(f"wire {name}"))
        wire.tracer = self._tracer
        self._wires.append(wire)
        return wire

    # -- randomness --

    def random(self, purpose: str) -> Random:
        """A random generator for one purpose, so that what one part draws doesn't affect another."""
        return Random(f"{self.seed} {purpose}")

    def random_bytes(self, purpose: str) -> Callable[[int], bytes]:
        """A reproducible replacement for `os.urandom`."""
        return self.random(f"bytes {purpose}").randbytes

    def initial_sequence(self) -> int:
        """The initial sequence number of a TCP connection; far from all others, so that none is mistaken."""
        self._sequence += 1
        return self._sequence << 48

    # -- watching --

    @property
    def trace(self) -> list[Seen] | Callable[[Seen], object] | None:
        """Receives every packet on every link: a list, a callable, or None."""
        return self._trace

    @trace.setter
    def trace(self, trace: list[Seen] | Callable[[Seen], object] | None) -> None:
        self._trace = trace
        for wire in self._wires:
            wire.tracer = self._tracer

    @property
    def _tracer(self) -> Tracer | None:
        return self._trace.append if isinstance(self._trace, list) else self._trace

    # -- time --

    @property
    def now(self) -> float:
        """Seconds since the simulation began."""
        return self.scheduler.now

    def monotonic(self) -> float:
        """Like `time.monotonic`, on a machine that never sleeps."""
        return self.scheduler.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass. Exceptions raised meanwhile are raised from here."""
        try:
            self.scheduler.run_until(self.scheduler.now + seconds)
        except BaseException:
            self.tell_seed()
            raise

    def run_until(self, condition: Callable[[], object], timeout: float, what: str = "") -> None:
        """
        Let time pass until a condition holds; it is evaluated after every event.

        :param what: names the condition in the message of `SimulationTimeout`.
        :raise SimulationTimeout: after `timeout` seconds it still does not hold.
        """
        scheduler = self.scheduler
        deadline = scheduler.now + timeout
        try:
            while not condition():
                following = scheduler.next_time()
                if following is None or following > deadline:
                    scheduler.run_until(deadline)
                    if condition():
                        return
                    raise SimulationTimeout(
                        f"{what or 'the condition'}: not in {timeout} s (it is {scheduler.now} s)"
                    )
                scheduler.step()
        except BaseException:
            self.tell_seed()
            raise

    def wait(self, awaited: Awaited[T], timeout: float, what: str = "") -> T:
        """
        Let time pass until a Deferred or coroutine has its result.

        :return: the result; a failure is raised, with its traceback.
        :raise SimulationTimeout: after `timeout` seconds there is none.
        """
        deferred = awaited if isinstance(awaited, Deferred) else Deferred.fromCoroutine(awaited)
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.run_until(lambda: results, timeout, what or repr(deferred))
        if isinstance(results[0], Failure):
            self.tell_seed()
            results[0].raiseException()
        result: T = results[0]
        return result

    def tell_seed(self) -> None:
        """Print the seed, once, so that a failure can be replayed."""
        if self.announce:
            self.announce = False
            sys.stderr.write(
                f"\nsimulation failed with seed {self.seed}: replay it with PUNCH_SEED={self.seed}\n"
            )
