"""Networks: the public internet, LANs behind routers, and the routing between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from punch.test.internet.links import LinkSpec
from punch.test.internet.nat import NAT, Firewall, Unsolicited
from punch.test.internet.packet import IPNetwork, Packet, canonical_host, contains, is_ipv6, network_of

if TYPE_CHECKING:
    from punch.test.internet.host import Host
    from punch.test.internet.world import Internet


class Attachment:
    """One end of a link: a host or a router, attached to a network under some addresses."""

    def __init__(
        self,
        name: str,
        network: Network,
        addresses: Iterable[str],
        receive: Callable[[Packet], None],
        up: LinkSpec,
        down: LinkSpec,
    ) -> None:
        self.network = network
        self.addresses = [canonical_host(address) for address in addresses]
        self.up = network.net.wire(f"{name} up", up)
        self.down = network.net.wire(f"{name} down", down)
        self._receive = receive
        self.attached = True
        for address in self.addresses:
            network.join(address, self)

    def send(self, packet: Packet) -> None:
        """Send a packet onto the network; nothing is delivered before this returns."""
        if self.attached:
            self.up.carry(packet, self.network.forward, later=True)

    def relay(self, packet: Packet) -> None:
        """Send a packet onto the network, from an event and not from inside an application's call."""
        if self.attached:
            self.up.carry(packet, self.network.forward)

    def deliver(self, packet: Packet) -> None:
        """Take a packet from the network."""
        self.down.carry(packet, self._arrived)

    def _arrived(self, packet: Packet) -> None:
        if self.attached:
            self._receive(packet)

    def set_up(self, up: bool) -> None:
        """Let the link carry packets, or none."""
        self.up.up = self.down.up = up

    def set_spec(self, up: LinkSpec, down: LinkSpec | None = None) -> None:
        """Change the link's properties; packets under way are not affected."""
        self.up.spec = up
        self.down.spec = up if down is None else down

    def readdress(self, old: str, new: str) -> None:
        """Replace one of the addresses with another."""
        self.network.leave(old, self)
        self.addresses[self.addresses.index(old)] = canonical_host(new)
        self.network.join(canonical_host(new), self)

    def detach(self) -> None:
        """Leave the network; packets on the way to this end are lost."""
        self.attached = False
        for address in self.addresses:
            self.network.leave(address, self)


class Network:
    """A network whose members reach each other directly: the public internet, or a `Lan`."""

    def __init__(self, net: Internet, name: str) -> None:
        self.net = net
        self.name = name
        self.hops = 0
        """How many routers there are between any two members."""
        self._members: dict[str, Attachment] = {}
        self._routes: list[tuple[IPNetwork, Router]] = []
        self._next_free = 2

    def is_local(self, host: str) -> bool:
        """Whether members reach an address without a router."""
        return True

    def has_route(self, host: str) -> bool:
        """Whether members have a route to an address."""
        return True

    def free_addresses(self) -> list[str]:
        """Addresses for a new member."""
        while f"203.0.113.{self._next_free}" in self._members:
            self._next_free += 1
        return [f"203.0.113.{self._next_free}"]

    def join(self, host: str, member: Attachment) -> None:
        """
        Send an address's packets to a member from now on.

        :raise ValueError: the address is taken.
        """
        if host in self._members:
            raise ValueError(f"{host} is taken in {self.name}")
        self._members[host] = member

    def leave(self, host: str, member: Attachment) -> None:
        """Undo `join`."""
        if self._members.get(host) is member:
            del self._members[host]

    def add_route(self, prefix: IPNetwork, router: Router) -> None:
        """Send packets for a prefix to a router."""
        self._routes.append((prefix, router))

    def forward(self, packet: Packet) -> None:
        """Route a packet."""
        drop = self.net.drop
        if drop is not None and drop(packet):
            return
        passed_on = packet.behind(self.hops)
        if passed_on is not None and not self.forward_inside(passed_on):
            self.forward_outside(passed_on)

    def forward_inside(self, packet: Packet) -> bool:
        """Deliver a packet to a member, or to a network behind one; returns whether there is one."""
        host = packet.destination[0]
        member = self._members.get(host)
        if member is not None:
            member.deliver(packet)
            return True
        for prefix, router in self._routes:
            if contains(prefix, host):
                router.wan.deliver(packet)
                return True
        return False

    def forward_outside(self, packet: Packet) -> None:
        """Send a packet to the network outside; the public internet has none, and drops it."""


class Lan(Network):
    """A network behind a router: with a NAT (IPv4), a firewall, or neither."""

    def __init__(
        self,
        net: Internet,
        name: str,
        subnets: list[str],
        parent: Network | None,
        nat: NAT | None,
        firewall: Firewall | None,
        up: LinkSpec,
        down: LinkSpec,
        host_link: LinkSpec,
    ) -> None:
        super().__init__(net, name)
        self.subnets = [network_of(subnet) for subnet in subnets]
        self.nat = nat
        self.firewall = firewall
        self.host_link = host_link
        self.router = None if parent is None else Router(self, parent, nat, firewall, up, down)

    def host(self, name: str, *addresses: str, link: LinkSpec | None = None) -> Host:
        """
        A new host on this LAN, under the given addresses or else the next free ones, one for each subnet.

        :param link: of the host's own cable, both directions.
        """
        return self.net.new_host(name, self, addresses, self.host_link if link is None else link)

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
    ) -> Lan:
        """Add a LAN behind this one; for the parameters see `Internet.lan`."""
        return self.net.lan(
            name, subnet, ipv6=ipv6, nat=nat, firewall=firewall, link=link, link_down=link_down, parent=self
        )

    @property
    def uplink(self) -> Attachment:
        """
        The router's link to the network outside: to cut it, or to change its properties.

        :raise ValueError: this LAN has none.
        """
        if self.router is None:
            raise ValueError(f"{self.name} has no router")
        return self.router.wan

    @property
    def gateway(self) -> str | None:
        """The router's IPv4 address on this LAN (kept free; a host may be made there to answer PCP, say)."""
        return next((str(subnet[1]) for subnet in self.subnets if subnet.version == 4), None)

    def is_local(self, host: str) -> bool:
        return any(contains(subnet, host) for subnet in self.subnets)

    def has_route(self, host: str) -> bool:
        return self.is_local(host) or self.router is not None

    def free_addresses(self) -> list[str]:
        while any(str(subnet[self._next_free]) in self._members for subnet in self.subnets):
            self._next_free += 1
        return [str(subnet[self._next_free]) for subnet in self.subnets]

    def add_route(self, prefix: IPNetwork, router: Router) -> None:
        super().add_route(prefix, router)
        if self.router is not None:
            self.router.outside.add_route(prefix, self.router)

    def forward_outside(self, packet: Packet) -> None:
        if self.router is not None:
            self.router.outbound(packet)


class Router:
    """The router between a LAN and the network outside it."""

    def __init__(
        self,
        lan: Lan,
        outside: Network,
        nat: NAT | None,
        firewall: Firewall | None,
        up: LinkSpec,
        down: LinkSpec,
    ) -> None:
        self.lan = lan
        self.outside = outside
        self.nat = nat
        self.firewall = firewall
        addresses = []
        if nat is not None:
            if nat.public is None:
                nat.public = outside.free_addresses()[0]
            nat.public = canonical_host(nat.public)
            addresses.append(nat.public)
        self.wan = Attachment(f"{lan.name} uplink", outside, addresses, self.inbound, up, down)
        for subnet in lan.subnets:
            if subnet.version == 6 or nat is None:
                outside.add_route(subnet, self)
        if nat is not None:
            nat.install(self.wan.readdress, lan.net.random(f"nat {lan.name}"))

    def outbound(self, packet: Packet) -> None:
        """Forward a packet from the LAN to another network."""
        now = self.lan.net.scheduler.now
        nat = self.nat if self.nat is not None and self.nat.translates(packet.destination[0]) else None
        out = packet.behind(1)
        if out is not None and self.firewall is not None:
            out = self.firewall.outbound(out, now)
        if out is not None and nat is not None:
            out = nat.as_ipv4(out)
            if out.destination[0] == nat.public:
                back = nat.hairpinned(out, now)
                if back is not None:
                    self.lan.forward_inside(back)
                return
            out = nat.outbound(out, now)
        if out is not None:
            self.wan.relay(out)

    def inbound(self, packet: Packet) -> None:
        """Process a packet from outside for the router or the LAN."""
        now = self.lan.net.scheduler.now
        nat = self.nat if not is_ipv6(packet.destination[0]) else None
        allowed = packet.taken(1)
        if allowed is not None and nat is not None:
            allowed = nat.inbound(allowed, now)
        if allowed is not None:
            allowed = allowed.passed_on(1)
        if allowed is not None and self.firewall is not None:
            allowed = self.firewall.inbound(allowed, now)
        if allowed is not None:
            self.lan.forward_inside(allowed)
        elif nat is not None and nat.unsolicited is not Unsolicited.DROP and packet.protocol == "tcp":
            reset = packet.payload.reset_for()
            if reset is not None:
                self.wan.relay(Packet("tcp", packet.destination, packet.source, reset, 40))
