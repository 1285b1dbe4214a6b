"""The sites that peers may be at: each profile builds one on the left and one on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tests.netns import Host
from tests.network.miniupnpd import PCP, PCP_READY, RULES, start_miniupnpd

from .kernel_network import (
    LEFT,
    MARK,
    RIGHT,
    KernelNetwork,
    Site,
    cone_nat,
    forward_rules,
    input_rules,
    route_by_core,
    source_nat,
)

Builder = Callable[[KernelNetwork, str, int], list[Site]]
"""Makes the sites on both sides: given the network, the profile's name and a number that no other has."""


def _router(network: KernelNetwork, name: str, rules: Sequence[str]) -> Host:
    """A host that forwards; its outer interface will be `wan`, the inner one `lan`."""
    router = network.namespaces.host(name)
    router.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    router.nft(MARK)
    for each in rules:
        router.nft(each)
    return router


def _cable(network: KernelNetwork, router: Host, host: Host, gateway: str, address: str) -> None:
    """Straight from a router's `lan` port to a host."""
    network.namespaces.join(router, "lan", host, "eth0")
    router.run("ip", "address", "add", f"{gateway}/24", "dev", "lan")
    host.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    host.route(gateway)


def home_router(
    network: KernelNetwork,
    name: str,
    *,
    nat: Callable[[str], str] = lambda public: source_nat(),
    unsolicited: str = "drop",
    forward: Sequence[str] = (),
) -> Host:
    """A router with a public address on its access link, by default with plain masquerading."""
    public = network.public4()
    router = _router(network, name, [nat(public), input_rules(unsolicited), forward_rules(*forward)])
    network.access(router, "wan", f"{public}/24")
    return router


def _home(
    network: KernelNetwork,
    profile: str,
    number: int,
    side: int,
    *,
    nat: Callable[[str], str] = lambda public: source_nat(),
    unsolicited: str = "drop",
    forward: Sequence[str] = (),
    subnet: str | None = None,
) -> Site:
    """A router with a public address and one host behind it, by default behind plain masquerading."""
    router = home_router(network, f"{profile}-{side}r", nat=nat, unsolicited=unsolicited, forward=forward)
    host = network.namespaces.host(f"{profile}-{side}")
    subnet = subnet or f"10.{number}.{side}"
    _cable(network, router, host, f"{subnet}.1", f"{subnet}.2")
    return Site(profile, side, host, (router, "wan"), [router])


def homes(
    network: KernelNetwork,
    profile: str,
    number: int,
    *,
    how: str = "masquerade",
    unsolicited: str = "drop",
    forward: Sequence[str] = (),
    subnet: str | None = None,
) -> list[Site]:
    """One NAT on each side."""
    options: dict[str, Any] = {"unsolicited": unsolicited, "forward": forward, "subnet": subnet}
    return [
        _home(network, profile, number, side, nat=lambda public: source_nat(how), **options)
        for side in (LEFT, RIGHT)
    ]


def cone(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """Endpoint-independent mapping and filtering, with hairpinning."""
    return [
        _home(network, profile, number, side, nat=lambda public: cone_nat(public, ["wan", "lan"]))
        for side in (LEFT, RIGHT)
    ]


def short(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """Mappings that are forgotten after 15 s."""
    sites = homes(network, profile, number)
    for site in sites:
        site.routers[0].sysctl(
            "net.netfilter.nf_conntrack_udp_timeout=15", "net.netfilter.nf_conntrack_udp_timeout_stream=15"
        )
    return sites


def mapped(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """
    The strictest NAT, whose router maps a port when it is asked.

    The daemon takes an address for documentation for no public one. So it is told another one, which peers
    don't use, since reflectors see the real one.
    """
    sites = []
    for side in (LEFT, RIGHT):
        subnet = f"10.{number}.{side}"
        router = _router(network, f"{profile}-{side}r", [RULES])
        network.access(router, "wan", f"{network.public4()}/24")
        host = network.namespaces.host(f"{profile}-{side}")
        _cable(network, router, host, f"{subnet}.1", f"{subnet}.2")
        options = f"{PCP}ext_ip=11.0.0.{side}\n"
        start_miniupnpd(router, network.directory(router.name), options, PCP_READY, network=subnet)
        sites.append(Site(profile, side, host, (router, "wan"), [router]))
    return sites


def sequential(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """Ports for UDP in sequence, by a counter of nftables: masquerading itself has none."""
    return [
        _home(network, profile, number, side, nat=lambda public: SEQUENTIAL_NAT) for side in (LEFT, RIGHT)
    ]


def carrier(network: KernelNetwork, profile: str, number: int, *, hairpin: bool) -> list[Site]:
    """Both homes behind one more NAT, of their carrier."""
    public = network.public4()
    nat = cone_nat(public, ["lan"]) if hairpin else source_nat()
    middle = _router(network, f"{profile}-cgn", [nat, input_rules("drop"), forward_rules()])
    network.namespaces.plug(middle, network.public, "wan", f"{public}/24")
    route_by_core(middle, [public])
    inside = network.namespaces.switch(f"{profile}-net")
    network.namespaces.plug(middle, inside, "lan", "100.64.0.1/24")
    sites = []
    for side in (LEFT, RIGHT):
        router = _router(network, f"{profile}-{side}r", [source_nat(), input_rules("drop"), forward_rules()])
        network.access(router, "wan", f"100.64.0.1{side}/24", outside=inside)
        router.route("100.64.0.1")
        host = network.namespaces.host(f"{profile}-{side}")
        _cable(network, router, host, f"10.{number}.{side}.1", f"10.{number}.{side}.2")
        sites.append(Site(profile, side, host, (router, "wan"), [router, middle]))
    return sites


def open_internet(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """A public address of each family and no filter."""
    sites = []
    for side in (LEFT, RIGHT):
        host = network.namespaces.host(f"{profile}-{side}")
        network.access(host, "eth0", f"{network.public4()}/24", f"{network.public6()}/64")
        sites.append(Site(profile, side, host, (host, "eth0")))
    return sites


def ipv6(network: KernelNetwork, profile: str, number: int, *, ipv4: bool) -> list[Site]:
    """Public IPv6 behind a stateful firewall; the IPv4 that comes with it has the strictest of NATs."""
    sites = []
    for side in (LEFT, RIGHT):
        public4 = network.public4()
        public6 = network.public6()
        prefix = f"2001:db8:{number:x}:{side}"
        nat = [source_nat("masquerade fully-random")] if ipv4 else []
        router = _router(network, f"{profile}-{side}r", [*nat, input_rules("drop"), forward_rules()])
        addresses = [f"{public4}/24"] if ipv4 else []
        network.access(router, "wan", *addresses, f"{public6}/64")
        network.route6(f"{prefix}::/64", public6)
        host = network.namespaces.host(f"{profile}-{side}")
        if ipv4:
            _cable(network, router, host, f"10.{number}.{side}.1", f"10.{number}.{side}.2")
        else:
            network.namespaces.join(router, "lan", host, "eth0")
        router.run("ip", "address", "add", f"{prefix}::1/64", "dev", "lan", "nodad")
        host.run("ip", "address", "add", f"{prefix}::2/64", "dev", "eth0", "nodad")
        host.route(f"{prefix}::1")
        sites.append(Site(profile, side, host, (router, "wan"), [router], sees6=not ipv4))
    return sites


def many_interfaces(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """Bridges of containers and a VPN that leads nowhere, with the same addresses on both sides."""
    sites = homes(network, profile, number)
    for site in sites:
        bridges = ["docker0", *(f"br-{index:012x}" for index in range(8))]
        for index, name in enumerate(bridges):
            site.host.run("ip", "link", "add", name, "type", "bridge")
            site.host.run("ip", "address", "add", f"172.{17 + index}.0.1/16", "dev", name)
            site.host.run("ip", "link", "set", name, "up")
        site.host.run("ip", "tuntap", "add", "dev", "wg0", "mode", "tun")
        site.host.run("ip", "address", "add", "10.99.0.2/24", "dev", "wg0")
        site.host.run("ip", "link", "set", "wg0", "up")
    return sites


def same_lan(network: KernelNetwork, profile: str, number: int) -> list[Site]:
    """Both hosts behind one router, on one LAN."""
    router = _router(network, f"{profile}-r", [source_nat(), input_rules("drop"), forward_rules()])
    network.access(router, "wan", f"{network.public4()}/24")
    lan = network.namespaces.switch(f"{profile}-lan")
    network.namespaces.plug(router, lan, "lan", f"10.{number}.0.1/24")
    sites = []
    for side in (LEFT, RIGHT):
        host = network.namespaces.host(f"{profile}-{side}")
        network.namespaces.plug(host, lan, "eth0", f"10.{number}.0.{1 + side}/24")
        host.route(f"10.{number}.0.1")
        sites.append(Site(profile, side, host, (router, "wan"), [router]))
    return sites


# A map, since nftables takes the number of a counter for a port with the bytes in the wrong order.
SEQUENCE = ", ".join(f"{number} : {20000 + number}" for number in range(4096))
SEQUENTIAL_NAT = f"""
table ip nat {{
    chain post {{
        type nat hook postrouting priority 100;
        oifname "wan" meta l4proto udp masquerade to :numgen inc mod 4096 map {{ {SEQUENCE} }}
        oifname "wan" masquerade
    }}
}}
"""
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
    "mapped": mapped,
    "sequential": sequential,
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
    "mapped": "as fully-drop, the router maps a port when it is asked (PCP, miniupnpd)",
    "sequential": "another UDP port for every destination, each one above the one before",
}


def build(network: KernelNetwork, names: Sequence[str]) -> dict[tuple[str, int], Site]:
    """The sites of the profiles, by name and side."""
    numbers = {name: number for number, name in enumerate(PROFILES, 1)}
    return {
        (site.profile, site.side): site
        for name in names
        for site in PROFILES[name](network, name, numbers[name])
    }
