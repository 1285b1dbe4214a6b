"""
From the call to the first message at the other application, and to its mark, in one-way delays D.

    python benchmarks/first_message.py [--delay SECONDS]

Both peers are behind NATs with port-dependent filtering (endpoint-independent mapping), the callee knows the
caller, a Ta of 20 ms is signalled. A datagram takes D from peer to peer, and a control message takes D as
well, since the rendezvous is in the middle: so asking the reflector costs one D. Time is simulated, and
everything else is what runs in production. With checks before data nothing is faster than 7 D (offer 1,
answer 1, a check and its answer 2, QUIC's handshake 3) and 8 D to the mark. Between peers that had a direct
path before, the handshake begins with the first check: 5 D and 6 D.

warm: both were registered for some seconds, so they know how the reflector sees them.
cold: the call is placed at the moment of registration, before either has asked.

A second table has the time to a direct path for each technique, on the first link of two peers and on the
next one, for which they remember the first.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from math import inf

from punch.contacts import AddressBook
from punch.ice.punching.techniques import Technique
from punch.node.events import Connected
from punch.test.internet import NAT, Filtering, Internet, LinkSpec, Mapping, Ports, Unsolicited
from punch.test.system import SERVICE, Peer, Registered, Rendezvous, introduce

FLOORS = {True: (5, 6), False: (7, 8)}
"""First message and mark in D, of peers with an earlier link and of others."""


TECHNIQUES: dict[Technique, Callable[[], tuple[NAT, NAT]]] = {
    Technique.ICE: lambda: (_nat(Mapping.EIM, Ports.PRESERVING), _nat(Mapping.EIM, Ports.PRESERVING)),
    Technique.PREDICTION: lambda: (_nat(Mapping.APDM, Ports.SEQUENTIAL), _nat(Mapping.EIM, Ports.RANDOM)),
    Technique.SIMULTANEOUS_OPEN: lambda: (_taking(), _taking()),
    Technique.SPRAYING: lambda: (_nat(Mapping.APDM, Ports.RANDOM), _nat(Mapping.EIM, Ports.RANDOM)),
}
"""NATs for which each technique is meant."""
HOPS = 8
"""Routers between the two homes."""
LINKS = 25
"""How many pairs of links the time of each technique is the median of."""


def _nat(mapping: Mapping, ports: Ports) -> NAT:
    return NAT(mapping=mapping, filtering=Filtering.APDF, ports=ports)


def _taking() -> NAT:
    """A router with Linux that takes unsolicited packets for its own."""
    return NAT(mapping=Mapping.APDM, ports=Ports.PRESERVING, overload=True, unsolicited=Unsolicited.ACCEPT)


class Homes:
    """
    Alice and Bob behind NATs of their own, with address books that outlive their nodes.

    :param delay: D in seconds.
    """

    def __init__(self, seed: int, delay: float, nats: tuple[NAT, NAT]) -> None:
        self.net = Internet(seed)
        self.net.public.hops = HOPS
        self._rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self._books = [AddressBook(None), AddressBook(None)]
        self._starts = 0
        self._hosts = []
        for number, (name, nat) in enumerate(zip(("alice", "bob"), nats, strict=True), 1):
            nat.public = f"203.0.113.{number}"
            lan = self.net.lan(
                f"home-{name}", f"192.168.{number}.0/24", nat=nat, link=LinkSpec(delay=delay / 2)
            )
            self._hosts.append(lan.host(name))

    def start(self, *, know: bool) -> tuple[Peer, Peer]:
        """
        Register both.

        :param know: Alice has Bob in her address book; he always has her.
        """
        self._starts += 1
        alice, bob = (
            Peer(self.net, host, self._rendezvous.address, pacing=0.02, known=book, salt=str(self._starts))
            for host, book in zip(self._hosts, self._books, strict=True)
        )
        introduce(alice, bob)
        if know:
            introduce(bob, alice)
        bob.start()
        alice.start()
        self.net.run_until(lambda: alice.of(Registered) and bob.of(Registered), 10.0)
        return alice, bob

    def stop(self, alice: Peer, bob: Peer) -> None:
        """Stop both, and wait until their NATs and their budgets have forgotten everything."""
        for peer in (alice, bob):
            peer.stop()
        self.net.advance(700.0)


def measure(delay: float, warm: bool, *, known: bool, seed: int = 0) -> tuple[float, float, str]:
    """
    One call.

    :param delay: D in seconds.
    :param known: the peers know each other, and had a link on these networks before.
    :return: first message and mark, both in D, and the path.
    """
    homes = Homes(seed, delay, TECHNIQUES[Technique.ICE]())
    net = homes.net
    alice, bob = homes.start(know=known)
    if known:
        alice.call(bob.id)
        net.run_until(lambda: alice.of(Connected) and bob.of(Connected), 30.0, "the first link")
        net.advance(5.0)
        homes.stop(alice, bob)
        alice, bob = homes.start(know=True)
    if warm:
        net.advance(5.0)
    begun = net.now
    alice.on_connected = lambda event: _say(alice, bob)
    alice.call(bob.id)
    net.run_until(lambda: alice.delivered, 30.0, "the mark")
    result = (bob.message_times[0] - begun) / delay, (alice.delivered[0][0] - begun) / delay
    path = alice.last(Connected).path.kind
    homes.stop(alice, bob)
    return *result, path


def measure_direct(delay: float, technique: Technique, seed: int) -> list[float]:
    """
    Two links between peers that know each other, one after the other.

    :return: after how many seconds each is direct on both sides; infinity: not within a minute.
    """
    # With delays, first checks cross, and no technique is needed
    homes = Homes(seed, 0.0 if technique is Technique.SIMULTANEOUS_OPEN else delay, TECHNIQUES[technique]())
    times = []
    for _ in range(2):
        alice, bob = homes.start(know=True)
        homes.net.advance(5.0)
        begun = homes.net.now
        alice.call(bob.id)
        while not (direct := _is_direct(alice, bob)) and homes.net.now < begun + 60.0:
            homes.net.advance(0.05)
        times.append(homes.net.now - begun if direct else inf)
        homes.net.advance(1.0)
        homes.stop(alice, bob)
    return times


def _is_direct(alice: Peer, bob: Peer) -> bool:
    links = [here.node.link(there.id) for here, there in ((alice, bob), (bob, alice))]
    return all(link and link.status and link.status.path.kind != "relay" for link in links)


def _say(alice: Peer, bob: Peer) -> None:
    alice.chat.send(bob.id, "hello")


def main() -> int:
    """Print the table; the exit status says whether the floors are reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--delay", type=float, default=0.1, help="D in seconds (default 0.1)")
    delay = parser.parse_args().delay
    print(f"D = {delay * 1000:g} ms (A→B = A→service→B), Ta 20 ms, NATs EIM/APDF; time simulated")
    print(
        f"{platform.platform()}, {platform.machine()}; Python {platform.python_version()}, "
        f"Twisted {version('twisted')}, qh3 {version('qh3')}"
    )
    print(f"{'':22}{'first message':>15}{'its mark':>12}  {'floor':12}path")
    met = True
    for known in (True, False):
        for warm in (True, False):
            message, mark, path = measure(delay, warm, known=known)
            floor = FLOORS[known]
            met = met and message <= floor[0] + 1e-6 and mark <= floor[1] + 1e-6
            case = f"{'earlier link' if known else 'none yet'}, {'warm' if warm else 'cold'}"
            print(f"{case:22}{message:13.2f} D{mark:10.2f} D  {floor[0]} D / {floor[1]} D  {path}")
    print("reached" if met else "missed")
    print(f"\nseconds from the call to a direct path on both sides, medians of {LINKS}")
    print(f"{'technique':22}{'first link':>12}{'next link':>12}")
    for technique in TECHNIQUES:
        pairs = [measure_direct(delay, technique, seed) for seed in range(LINKS)]
        times = [statistics.median(each) for each in zip(*pairs, strict=True)]
        note = "  (no delay)" if technique is Technique.SIMULTANEOUS_OPEN else ""
        print(f"{technique.value:22}{times[0]:10.2f} s{times[1]:10.2f} s{note}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
