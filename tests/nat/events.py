"""What happens to networks while peers are linked, done to the sites of a `KernelNetwork`."""

from __future__ import annotations

import subprocess

from .kernel_network import KernelNetwork, Site, route_by_core
from .profiles import home_router


def flush(site: Site) -> None:
    """The NAT forgets its table, TCP included, as one that was restarted."""
    for router in site.routers:
        subprocess.run([*router.prefix, "conntrack", "-F"], capture_output=True, check=True)


def renumber(network: KernelNetwork, site: Site) -> None:
    """The router gets another public address, and forgets its table."""
    router, interface = site.access
    router.run("ip", "-4", "address", "flush", "dev", interface)
    address = f"{network.public4()}/24"
    router.run("ip", "address", "add", address, "dev", interface)
    route_by_core(router, [address])
    flush(site)


def swap(network: KernelNetwork, site: Site, number: int) -> None:
    """The host loses its cable, and is on another subnet, behind another NAT (Wi-Fi for cable, say)."""
    router = home_router(network, f"{site.name}-second")
    subnet = f"10.{number}.{site.side}"
    network.namespaces.join(router, "lan", site.host, "eth1")
    router.run("ip", "address", "add", f"{subnet}.1/24", "dev", "lan")
    site.host.run("ip", "address", "flush", "dev", "eth0")
    site.host.run("ip", "link", "set", "eth0", "down")
    site.host.run("ip", "address", "add", f"{subnet}.2/24", "dev", "eth1")
    site.host.route(f"{subnet}.1")
    site.routers = [router]
    site.access = router, "wan"


def blackhole(one: Site, other: Site) -> None:
    """Nothing gets through between two sites any more, while both reach everything else."""
    for here, there in ((one, other), (other, one)):
        address = public_address(there)
        here.access[0].nft(
            f"""
            table netdev hole {{
                chain out {{
                    type filter hook egress device "{here.access[1]}" priority 0;
                    ip daddr {address} drop
                }}
            }}
            """
        )


def public_address(site: Site) -> str:
    """The IPv4 address of a site's access link."""
    router, interface = site.access
    shown = router.run("ip", "-4", "-brief", "address", "show", "dev", interface)
    return shown.split()[2].partition("/")[0]
