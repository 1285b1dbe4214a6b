"""What happens to networks while peers are linked, done to the places of a `World`."""

from __future__ import annotations

import subprocess

from .profiles import home_router
from .world import Place, World, route_by_core


def flush(place: Place) -> None:
    """The NAT forgets its table, TCP included, as one that was restarted."""
    for router in place.routers:
        subprocess.run([*router.prefix, "conntrack", "-F"], capture_output=True, check=True)


def renumber(world: World, place: Place) -> None:
    """The router gets another public address, and forgets its table."""
    router, interface = place.access
    router.run("ip", "-4", "address", "flush", "dev", interface)
    address = f"{world.public4()}/24"
    router.run("ip", "address", "add", address, "dev", interface)
    route_by_core(router, [address])
    flush(place)


def swap(world: World, place: Place, number: int) -> None:
    """The host loses its cable, and is on another network, behind another NAT (Wi-Fi for cable, say)."""
    router = home_router(world, f"{place.name}-second")
    network = f"10.{number}.{place.side}"
    world.lab.join(router, "lan", place.host, "eth1")
    router.run("ip", "address", "add", f"{network}.1/24", "dev", "lan")
    place.host.run("ip", "address", "flush", "dev", "eth0")
    place.host.run("ip", "link", "set", "eth0", "down")
    place.host.run("ip", "address", "add", f"{network}.2/24", "dev", "eth1")
    place.host.route(f"{network}.1")
    place.routers = [router]
    place.access = router, "wan"


def blackhole(one: Place, other: Place) -> None:
    """Nothing gets through between two places any more, while both reach everything else."""
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


def public_address(place: Place) -> str:
    """The IPv4 address of a place's access link."""
    router, interface = place.access
    shown = router.run("ip", "-4", "-brief", "address", "show", "dev", interface)
    return shown.split()[2].partition("/")[0]
