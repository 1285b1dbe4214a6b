"""Peers that have both address families, IPv6 behind firewalls and IPv4 behind NATs."""

from __future__ import annotations

from punch.test.internet import NAT, Filtering, LinkSpec, Mapping, Ports
from punch.test.system import DualStackTestCase, Peer


class DualStackPeersTestCase(DualStackTestCase):
    """A test with such peers."""

    def dual_stack(self, name: str, *, strict: bool = False, ipv6: bool = True) -> Peer:
        """A registered peer behind a firewall (IPv6) and a NAT that may be strict (IPv4)."""
        self.homes += 1
        mapping, ports = (Mapping.APDM, Ports.RANDOM) if strict else (Mapping.EIM, Ports.PRESERVING)
        nat = NAT(f"203.0.113.{self.homes}", mapping=mapping, filtering=Filtering.APDF, ports=ports)
        lan = self.net.lan(
            f"home-{name}",
            f"192.168.{self.homes}.0/24",
            ipv6=f"2001:db8:{self.homes}::/64" if ipv6 else None,
            nat=nat,
            link=LinkSpec(delay=0.02),
        )
        peer = Peer(self.net, lan.host(name), self.dual.address, pacing=0.02)
        self.peers.append(peer)
        return peer.register()

    def path_over(self, alice: Peer, bob: Peer) -> tuple[str, bool]:
        """The kind of alice's path, and whether it is over IPv6."""
        status = alice.link_to(bob).status
        assert status is not None
        return status.path.kind, status.path.remote.is_ipv6
