"""
Two sites of each profile around one public network, with a rendezvous on it.

A site is a host with a peer, and whatever stands between it and the public network. For each profile there
is one site on the left and one on the right; a pair of profiles is a call from the left site of one to the
right site of the other. All sites are up at once, so that calls can run side by side; each site takes part
in one call at a time, and before a call `forget` clears what its routers know of earlier ones.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.netns import Host, Namespaces

SERVICE4 = "198.51.100.1"
SERVICE4_SECOND = "198.51.100.2"
SERVICE6 = "2001:db8::1"
CORE4 = "198.51.100.254"
CORE6 = "2001:db8::ffff"
CONTROL_PORT = 443
REFLECTOR_PORT = 3478

LEFT, RIGHT = 1, 2


@dataclass(frozen=True)
class LinkConditions:
    """What every access link does to packets: delay in seconds and loss (0 to 1), each way."""

    delay: float = 0.0
    loss: float = 0.0

    def __str__(self) -> str:
        if not self.delay and not self.loss:
            return "no delay, no loss"
        return f"{self.delay * 1000:g} ms and {self.loss:.0%} loss on each access link, each way"


@dataclass
class Site:
    """
    Where a peer is.

    :ivar access: the host or router that has the access link, and that interface.
    :ivar routers: all NATs and firewalls between the host and the public network, the nearest first.
    :ivar sees6: whether it reaches the rendezvous by IPv6 only.
    """

    profile: str
    side: int
    host: Host
    access: tuple[Host, str]
    routers: list[Host] = field(default_factory=list)
    sees6: bool = False

    @property
    def name(self) -> str:
        return f"{self.profile}-{'left' if self.side == LEFT else 'right'}"

    def forget(self) -> None:
        """Clear the UDP flows of all routers but those to the rendezvous, which an idle peer keeps."""
        for router in self.routers:
            # Status 1: there was none.
            subprocess.run(
                [*router.prefix, "conntrack", "-D", "-p", "udp", "-m", "0"], capture_output=True, check=False
            )


# What the rendezvous's own flows are marked with: `Site.forget` leaves them alone.
MARK = f"""
table inet marks {{
    chain pre {{
        type filter hook prerouting priority -150;
        ip daddr {{ {SERVICE4}, {SERVICE4_SECOND} }} udp dport {REFLECTOR_PORT} ct mark set 1
        ip6 daddr {SERVICE6} udp dport {REFLECTOR_PORT} ct mark set 1
    }}
}}
"""


class KernelNetwork:
    """The public network with the rendezvous's host, and sites around it; removed when it is left."""

    def __init__(self, conditions: LinkConditions | None = None) -> None:
        self.conditions = conditions or LinkConditions()
        self.namespaces = Namespaces()
        self._cables: list[str] = []
        self._wire: subprocess.Popen[bytes] | None = None
        self._files = tempfile.TemporaryDirectory(prefix="punch-network-")
        self._next_public = 10
        self._ports = 0
        self.public = self.namespaces.switch("public")
        # The public network's router is the switch itself; for IPv4 it knows of nothing else, and drops.
        self.public.sysctl("net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=0")
        self.public.run("ip", "address", "add", f"{CORE4}/24", "dev", "br0")
        self.public.run("ip", "address", "add", f"{CORE6}/64", "dev", "br0", "nodad")
        self.service = self.namespaces.host("service")
        addresses = (f"{SERVICE4}/24", f"{SERVICE4_SECOND}/24", f"{SERVICE6}/64")
        self.namespaces.plug(self.service, self.public, "eth0", *addresses)
        route_by_core(self.service, addresses)

    def __enter__(self) -> KernelNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._wire is not None:
            self._wire.kill()
            self._wire.wait()
        # Which ends the programs of routers, too
        self.namespaces.__exit__(kind, error, trace)
        self._files.cleanup()

    # -- building --

    def directory(self, name: str) -> Path:
        """A new directory for the files of a router's programs."""
        directory = Path(self._files.name) / name
        directory.mkdir()
        return directory

    def public4(self) -> str:
        """A free public IPv4 address."""
        self._next_public += 1
        return f"198.51.100.{self._next_public}"

    def public6(self) -> str:
        """The public IPv6 address that goes with the newest IPv4 one."""
        return f"2001:db8::{self._next_public}"

    def access(self, host: Host, interface: str, *addresses: str, outside: Host | None = None) -> None:
        """An access link with the conditions of the network, to the public network or the one `outside`."""
        outside = outside or self.public
        if self.conditions.delay:
            self._ports += 1
            far = f"tap{self._ports}"
            host.run("ip", "tuntap", "add", "dev", interface, "mode", "tap")
            outside.run("ip", "tuntap", "add", "dev", far, "mode", "tap")
            outside.run("ip", "link", "set", far, "master", "br0", "up")
            for address in addresses:
                flags = ["nodad"] if ":" in address else []
                host.run("ip", "address", "add", address, "dev", interface, *flags)
            host.run("ip", "link", "set", interface, "up")
            self._cables.append(f"{host.name}/{interface}:{outside.name}/{far}")
        else:
            self.namespaces.plug(host, outside, interface, *addresses)
        if outside is self.public:
            route_by_core(host, addresses)
        if self.conditions.loss:
            host.nft(loss_rules(interface, self.conditions.loss))

    def route6(self, prefix: str, via: str) -> None:
        """Send what is for an IPv6 prefix to a router on the public network."""
        self.public.run("ip", "route", "add", prefix, "via", via, "dev", "br0")

    def start(self) -> None:
        """Let the access links carry packets; nothing is built after this."""
        if not self._cables:
            return
        self._wire = subprocess.Popen(
            [sys.executable, "-m", "tests.nat.wire", str(self.conditions.delay), *self._cables],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._wire.stdout is not None
        if self._wire.stdout.readline() != b"ready\n":
            raise RuntimeError("the access links did not start")


def route_by_core(host: Host, addresses: Sequence[str]) -> None:
    """Default routes to the public network's router, for each family that there is an address of."""
    for core in {CORE6 if ":" in address else CORE4 for address in addresses}:
        host.route(core)


def loss_rules(interface: str, loss: float) -> str:
    """Rules that lose packets, each way, where they cross an interface; address resolution is spared."""
    resolution = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    lose = f"meta protocol {{ ip, ip6 }} numgen random mod 10000 < {round(loss * 10000)} drop"
    chains = [
        f'chain {hook} {{ type filter hook {hook} device "{interface}" priority {priority}; '
        f"\n{resolution}\n{lose}\n}}"
        for hook, priority in (("ingress", -500), ("egress", 500))
    ]
    return "table netdev conditions {\n" + "\n".join(chains) + "\n}\n"


def input_rules(unsolicited: str) -> str:
    """What a router does with packets to itself that nobody asked for: `accept`, `reject` or `drop`."""
    if unsolicited == "accept":
        return ""
    return f"""
    table inet input {{
        chain input {{
            type filter hook input priority 0;
            iifname "wan" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert }} accept
            iifname "wan" ct state established,related accept
            iifname "wan" {unsolicited}
        }}
    }}
    """


def forward_rules(*extra: str) -> str:
    """A stateful filter of what is routed: nothing comes in that was not asked for."""
    lines = "\n".join(extra)
    return f"""
    table inet forward {{
        chain forward {{
            type filter hook forward priority 0;
            {lines}
            ct status dnat accept
            iifname "wan" ct state new drop
        }}
    }}
    """


def source_nat(how: str = "masquerade") -> str:
    """What leaves by the `wan` interface gets its address."""
    return f"""
    table ip nat {{
        chain post {{ type nat hook postrouting priority 100; oifname "wan" {how}; }}
    }}
    """


def cone_nat(public: str, inside: Sequence[str]) -> str:
    """
    A NAT that maps each internal UDP port to the same external one, and lets everybody in at the interfaces
    `inside`: `wan` for the internet (RFC 4787: endpoint-independent filtering), `lan` for hairpinning (§6).

    Every packet that goes out keeps the mapping alive (REQ-6), which a chain of type nat would not see: it is
    shown only the first of each flow, and those to the rendezvous last longer than the mapping.

    Only what is hairpinned gets the public address as its source: what comes from outside keeps its own.
    """
    names = ", ".join(f'"{name}"' for name in inside)
    return f"""
    table ip nat {{
        map owner {{
            type inet_service : ipv4_addr . inet_service
            flags dynamic,timeout
            timeout 5m
        }}
        chain pre {{
            type nat hook prerouting priority -100;
            iifname {{ {names} }} fib daddr type local meta l4proto udp dnat to udp dport map @owner
        }}
        chain out {{
            type filter hook postrouting priority 90;
            oifname "wan" meta l4proto udp update @owner {{ udp sport : ip saddr . udp sport }}
        }}
        chain post {{
            type nat hook postrouting priority 100;
            oifname "wan" masquerade
            iifname "lan" oifname "lan" ct status dnat snat to {public}
        }}
    }}
    """
