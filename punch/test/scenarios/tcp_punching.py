"""Two peers, of which one is in a network that passes no UDP, and their attempts over TCP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from punch.link.control_stream import OptionalFrameType
from punch.test.internet import (
    NAT,
    Firewall,
    Host,
    InternetTestCase,
    LinkSpec,
    Ports,
)
from punch.test.scenarios.mapping_router import MappingRouter
from punch.test.system import SERVICE, Connected, Peer, Rendezvous
from punch.wire.address import TCPAddress
from punch.wire.control import Accept
from punch.wire.peers.candidate import Candidate, CandidateType, TCPType
from punch.wire.peers.link_frames import TCPCandidates

WITHIN = 5.0
"""Seconds after the call within which the path must be direct."""
VICTIM = "198.51.100.200"
ALICE, BOB = "203.0.113.1", "203.0.113.2"


def no_udp(**options: Any) -> NAT:
    """An ordinary NAT, except that no UDP gets out."""
    return NAT(ports=Ports.RANDOM, block_udp=True, **options)


class TCPTestCase(InternetTestCase):
    """Alice, whose network passes no UDP, and bob."""

    def place(
        self,
        right: NAT | Firewall | None,
        *,
        left: NAT | None = None,
        link: LinkSpec | None = None,
        seed: int = 1,
        routers: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """
        Register both.

        :param right: what is between bob and the internet; None: he has a public address.
        :param routers: the names of those whose router maps ports, with the options of each `MappingRouter`.
        """
        self.net = self.internet(seed)
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.victim = self.net.host("victim", VICTIM)
        link = link or LinkSpec(delay=0.025)
        self.blocked = left or no_udp()
        self.blocked.public = ALICE
        lans = {"alice": self.net.lan("alice", "192.168.1.0/24", nat=self.blocked, link=link)}
        here = lans["alice"].host("alice")
        there: Host
        if right is None:
            there = self.net.host("bob", BOB, link=link)
        elif isinstance(right, Firewall):
            there = self.net.lan("bob", "203.9.116.0/24", firewall=right, link=link).host("bob")
        else:
            right.public = BOB
            self.lan = lans["bob"] = self.net.lan("bob", "192.168.2.0/24", nat=right, link=link)
            there = self.lan.host("bob")
        self.routers = {name: MappingRouter(lans[name], **given) for name, given in (routers or {}).items()}
        peers = []
        for host in (here, there):
            asked: dict[str, Any] = {}
            router = self.routers.get(host.name)
            if router is not None:
                asked = {"gateways": partial(router.gateways, host), "upnp": router.upnp}
            address = self.rendezvous.address
            peers.append(Peer(self.net, host, address, accept=Accept.ANYONE, **asked, **options).register())
        self.alice, self.bob = self.peers = peers
        self.net.advance(5.0)

    def call(self, caller: int = 0) -> float:
        """Have one call the other; returns when that was."""
        began = self.net.now
        self.peers[caller].call(self.peers[1 - caller].id)
        for peer in self.peers:
            peer.wait_for(Connected, 15.0)
        return began

    def path(self, peer: Peer) -> tuple[str, str]:
        """The kind of path that a peer uses, and its transport protocol."""
        other = self.bob if peer is self.alice else self.alice
        status = peer.link_to(other).status
        assert status is not None
        return status.path.kind, status.path.protocol

    @property
    def over_tcp(self) -> bool:
        """Whether both sides use a direct path over TCP."""
        return all(self.path(peer) == ("prflx", "tcp") for peer in self.peers)

    @property
    def relayed(self) -> bool:
        """Whether either side is on a relay."""
        return any(self.path(peer)[0] == "relay" for peer in self.peers)

    def syns(self, peer: Peer) -> int:
        """How many SYNs a peer says that it has sent to the other one."""
        (link,) = peer.node.status.links
        return link.tcp_punching.packets

    def wait(self, condition: Callable[[], object], timeout: float) -> None:
        """Let time pass until something is so."""
        deadline = self.net.now + timeout
        while not condition():
            self.assertLess(self.net.now, deadline)
            self.net.advance(0.05)

    def listening(self, peer: Peer) -> list[int]:
        """The TCP ports at which a peer listens."""
        return [port.getHost().port for port in peer.host.reactor.open_ports if port.getHost().type == "TCP"]

    def say(self, candidates: tuple[Candidate, ...], attempt: int = 50) -> None:
        """Have alice's node send bob's a TCP frame that it would not send itself."""
        frame = TCPCandidates(attempt, candidates)
        self.alice.link_to(self.bob).send_control(OptionalFrameType.TCP, frame.encode())

    def named(self, host: str, *ports: int) -> tuple[Candidate, ...]:
        """Candidates at an address."""
        return tuple(
            Candidate(CandidateType.HOST, TCPAddress(host, port), 1000, "1", tcp_type=TCPType.PASSIVE)
            for port in ports
        )

    def stop(self) -> None:
        """Stop the peers and check that nothing is left of them."""
        for peer in self.peers:
            peer.stop()
        self.net.advance(10.0)
        for peer in self.peers:
            self.assertEqual(peer.host.reactor.getDelayedCalls(), [], peer.name)
            self.assertEqual(peer.host.reactor.open_ports, [], peer.name)
