"""The places that peers may be in: each profile builds one on the left and one on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.netns import Host

from .world import (
    LEFT,
    MARK,
    RIGHT,
    Place,
    World,
    cone_nat,
    forward_rules,
    input_rules,
    route_by_core,
    source_nat,
)

Builder = Callable[[World, str, int], list[Place]]
"""Makes the places on both sides: given the world, the profile's name and a number that no other has."""


def _router(world: World, name: str, rules: Sequence[str]) -> Host:
    """A host that forwards; its outer interface will be `wan`, the inner one `lan`."""
    router = world.lab.host(name)
    router.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    router.nft(MARK)
    for each in rules:
        router.nft(each)
    return router


def _cable(world: World, router: Host, host: Host, gateway: str, address: str) -> None:
    """Straight from a router's `lan` port to a host."""
    world.lab.join(router, "lan", host, "eth0")
    router.run("ip", "address", "add", f"{gateway}/24", "dev", "lan")
    host.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    host.route(gateway)


def home_router(
    world: World,
    name: str,
    *,
    nat: Callable[[str], str] = lambda public: source_nat(),
    unsolicited: str = "drop",
    forward: Sequence[str] = (),
) -> Host:
    """A router with a public address on its access link, by default with plain masquerading."""
    public = world.public4()
    router = _router(world, name, [nat(public), input_rules(unsolicited), forward_rules(*forward)])
    world.access(router, "wan", f"{public}/24")
    return router


def _home(
    world: World,
    profile: str,
    number: int,
    side: int,
    *,
    nat: Callable[[str], str] = lambda public: source_nat(),
    unsolicited: str = "drop",
    forward: Sequence[str] = (),
    subnet: str | None = None,
) -> Place:
    """A router with a public address and one host behind it, by default behind plain masquerading."""
    router = home_router(world, f"{profile}-{side}r", nat=nat, unsolicited=unsolicited, forward=forward)
    host = world.lab.host(f"{profile}-{side}")
    subnet = subnet or f"10.{number}.{side}"
    _cable(world, router, host, f"{subnet}.1", f"{subnet}.2")
    return Place(profile, side, host, (router, "wan"), [router])


def homes(
    world: World,
    profile: str,
    number: int,
    *,
    how: str = "masquerade",
    unsolicited: str = "drop",
    forward: Sequence[str] = (),
    subnet: str | None = None,
) -> list[Place]:
    """One NAT on each side."""
    options: dict[str, Any] = {"unsolicited": unsolicited, "forward": forward, "subnet": subnet}
    return [
        _home(world, profile, number, side, nat=lambda public: source_nat(how), **options)
        for side in (LEFT, RIGHT)
    ]


def cone(world: World, profile: str, number: int) -> list[Place]:
    """Endpoint-independent mapping and filtering, with hairpinning."""
    return [
        _home(world, profile, number, side, nat=lambda public: cone_nat(public, ["wan", "lan"]))
        for side in (LEFT, RIGHT)
    ]


def short(world: World, profile: str, number: int) -> list[Place]:
    """Mappings that are forgotten after 15 s."""
    places = homes(world, profile, number)
    for place in places:
        place.routers[0].sysctl(
            "net.netfilter.nf_conntrack_udp_timeout=15", "net.netfilter.nf_conntrack_udp_timeout_stream=15"
        )
    return places


def carrier(world: World, profile: str, number: int, *, hairpin: bool) -> list[Place]:
    """Both homes behind one more NAT, of their carrier."""
    public = world.public4()
    nat = cone_nat(public, ["lan"]) if hairpin else source_nat()
    middle = _router(world, f"{profile}-cgn", [nat, input_rules("drop"), forward_rules()])
    world.lab.plug(middle, world.public, "wan", f"{public}/24")
    route_by_core(middle, [public])
    inside = world.lab.switch(f"{profile}-net")
    world.lab.plug(middle, inside, "lan", "100.64.0.1/24")
    places = []
    for side in (LEFT, RIGHT):
        router = _router(world, f"{profile}-{side}r", [source_nat(), input_rules("drop"), forward_rules()])
        world.access(router, "wan", f"100.64.0.1{side}/24", outside=inside)
        router.route("100.64.0.1")
        host = world.lab.host(f"{profile}-{side}")
        _cable(world, router, host, f"10.{number}.{side}.1", f"10.{number}.{side}.2")
        places.append(Place(profile, side, host, (router, "wan"), [router, middle]))
    return places


def open_internet(world: World, profile: str, number: int) -> list[Place]:
    """A public address of each family and no filter."""
    places = []
    for side in (LEFT, RIGHT):
        host = world.lab.host(f"{profile}-{side}")
        world.access(host, "eth0", f"{world.public4()}/24", f"{world.public6()}/64")
        places.append(Place(profile, side, host, (host, "eth0")))
    return places


def ipv6(world: World, profile: str, number: int, *, ipv4: bool) -> list[Place]:
    """Public IPv6 behind a stateful firewall; the IPv4 that comes with it has the strictest of NATs."""
    places = []
    for side in (LEFT, RIGHT):
        public4 = world.public4()
        public6 = world.public6()
        prefix = f"2001:db8:{number:x}:{side}"
        nat = [source_nat("masquerade fully-random")] if ipv4 else []
        router = _router(world, f"{profile}-{side}r", [*nat, input_rules("drop"), forward_rules()])
        addresses = [f"{public4}/24"] if ipv4 else []
        world.access(router, "wan", *addresses, f"{public6}/64")
        world.route6(f"{prefix}::/64", public6)
        host = world.lab.host(f"{profile}-{side}")
        if ipv4:
            _cable(world, router, host, f"10.{number}.{side}.1", f"10.{number}.{side}.2")
        else:
            world.lab.join(router, "lan", host, "eth0")
        router.run("ip", "address", "add", f"{prefix}::1/64", "dev", "lan", "nodad")
        host.run("ip", "address", "add", f"{prefix}::2/64", "dev", "eth0", "nodad")
        host.route(f"{prefix}::1")
        places.append(Place(profile, side, host, (router, "wan"), [router], sees6=not ipv4))
    return places


def many_interfaces(world: World, profile: str, number: int) -> list[Place]:
    """Bridges of containers and a VPN that leads nowhere, with the same addresses on both sides."""
    places = homes(world, profile, number)
    for place in places:
        bridges = ["docker0", *(f"br-{index:012x}" for index in range(8))]
        for index, name in enumerate(bridges):
            place.host.run("ip", "link", "add", name, "type", "bridge")
            place.host.run("ip", "address", "add", f"172.{17 + index}.0.1/16", "dev", name)
            place.host.run("ip", "link", "set", name, "up")
        place.host.run("ip", "tuntap", "add", "dev", "wg0", "mode", "tun")
        place.host.run("ip", "address", "add", "10.99.0.2/24", "dev", "wg0")
        place.host.run("ip", "link", "set", "wg0", "up")
    return places


def same_lan(world: World, profile: str, number: int) -> list[Place]:
    """Both hosts behind one router, on one LAN."""
    router = _router(world, f"{profile}-r", [source_nat(), input_rules("drop"), forward_rules()])
    world.access(router, "wan", f"{world.public4()}/24")
    lan = world.lab.switch(f"{profile}-lan")
    world.lab.plug(router, lan, "lan", f"10.{number}.0.1/24")
    places = []
    for side in (LEFT, RIGHT):
        host = world.lab.host(f"{profile}-{side}")
        world.lab.plug(host, lan, "eth0", f"10.{number}.0.{1 + side}/24")
        host.route(f"10.{number}.0.1")
        places.append(Place(profile, side, host, (router, "wan"), [router]))
    return places


NO_UDP = 'iifname "lan" meta l4proto udp drop'
ONLY_443 = 'iifname "lan" tcp dport != 443 drop'

PROFILES: dict[str, Builder] = {
    **{
        f"{name}-{unsolicited}": partial(homes, how=how, unsolicited=unsolicited)
        for name, how in (
            ("masq", "masquerade"),
            ("random", "masquerade random"),
            ("fully", "masquerade fully-random"),
        )
        for unsolicited in ("drop", "reject", "accept")
    },
    "short": short,
    "cone": cone,
    "cgnat-hairpin": partial(carrier, hairpin=True),
    "cgnat": partial(carrier, hairpin=False),
    "open": open_internet,
    "dual": partial(ipv6, ipv4=True),
    "ipv6": partial(ipv6, ipv4=False),
    "no-udp": partial(homes, forward=[NO_UDP]),
    "tcp443": partial(homes, forward=[NO_UDP, ONLY_443]),
    "docker": many_interfaces,
    "overlap": partial(homes, subnet="192.168.1"),
    "lan": same_lan,
}

ABOUT = {
    "masq-drop": "masquerade: mapping endpoint-independent, filtering by port; unsolicited packets dropped",
    "masq-reject": "the same, unsolicited packets rejected (ICMP)",
    "masq-accept": "the same, unsolicited packets taken by the router, which says that nothing listens",
    "random-drop": "masquerade random: another port for every destination",
    "random-reject": "the same, unsolicited packets rejected",
    "random-accept": "the same, unsolicited packets taken by the router",
    "fully-drop": "masquerade fully-random: another port for every destination",
    "fully-reject": "the same, unsolicited packets rejected",
    "fully-accept": "the same, unsolicited packets taken by the router",
    "short": "as masq-drop, mappings last 15 s",
    "cone": "endpoint-independent mapping and filtering",
    "cgnat-hairpin": "home NAT behind a carrier's NAT that hairpins; both homes have the same carrier",
    "cgnat": "the same, the carrier's NAT does not hairpin",
    "open": "public IPv4 and IPv6 address, no filter",
    "dual": "IPv6 behind a stateful firewall, IPv4 behind fully-random",
    "ipv6": "IPv6 only, behind a stateful firewall",
    "no-udp": "masquerade, no UDP gets out",
    "tcp443": "masquerade, nothing but TCP to port 443 gets out",
    "docker": "as masq-drop, nine container bridges and a VPN besides, with the same addresses on both sides",
    "overlap": "as masq-drop, both hosts are 192.168.1.2",
    "lan": "as masq-drop, both hosts on one LAN behind one router",
}


def build(world: World, names: Sequence[str]) -> dict[tuple[str, int], Place]:
    """The places of the profiles, by name and side."""
    numbers = {name: number for number, name in enumerate(PROFILES, 1)}
    return {
        (place.profile, place.side): place
        for name in names
        for place in PROFILES[name](world, name, numbers[name])
    }
