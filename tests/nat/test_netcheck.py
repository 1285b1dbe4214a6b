"""`punch netcheck` behind every kernel NAT of the grid, with the real programs: it names each correctly."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.needs import need, need_namespaces
from tests.processes import PUNCH, Programs

from .kernel_network import (
    CONTROL_PORT,
    LEFT,
    REFLECTOR_PORT,
    SERVICE4,
    SERVICE4_SECOND,
    SERVICE6,
    KernelNetwork,
    Site,
)
from .profiles import PROFILES, build

AT_ONCE = 4

EIM = EIF = "endpoint-independent"
APDM = APDF = "address-and-port-dependent"
NO_UDP: dict[str, Any] = {
    "udp": False,
    "nat": None,
    "mapping": None,
    "filtering": None,
    "public_addresses": [],
}
NO_NAT: dict[str, Any] = {"nat": False, "mapping": None, "hairpinning": None, "port_allocation": None}


def nat(mapping: str, filtering: str, hairpinning: str, ports: str) -> dict[str, Any]:
    """What is said of a NAT."""
    return {
        "udp": True,
        "nat": True,
        "mapping": mapping,
        "filtering": filtering,
        "hairpinning": hairpinning,
        "port_allocation": ports,
    }


MASQUERADE = nat(EIM, APDF, "no", "preserving")
# Behind these, hairpinned packets come by a mapping that nobody knows, and are filtered: it can't be told.
RANDOM = nat(APDM, APDF, "unknown", "random")
WALLED = {**NO_NAT, "udp": True, "filtering": APDF}

# By hand, from the rules of each profile: what is said of IPv4, of IPv6, and with whom links are direct.
EXPECTED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    **{f"masq-{unsolicited}": (MASQUERADE, NO_UDP, "most") for unsolicited in ("drop", "reject", "accept")},
    **{f"random-{unsolicited}": (RANDOM, NO_UDP, "some") for unsolicited in ("drop", "reject", "accept")},
    **{f"fully-{unsolicited}": (RANDOM, NO_UDP, "some") for unsolicited in ("drop", "reject", "accept")},
    "short": (MASQUERADE, NO_UDP, "most"),
    "cone": (nat(EIM, EIF, "yes", "preserving"), NO_UDP, "all"),
    "cgnat-hairpin": (nat(EIM, APDF, "yes", "preserving"), NO_UDP, "most"),
    "cgnat": (MASQUERADE, NO_UDP, "most"),
    "open": (
        {**NO_NAT, "udp": True, "filtering": EIF},
        # The service has one IPv6 address only.
        {**NO_NAT, "filtering": "unknown", "filtering_may_be": [EIF, "address-dependent"]},
        "all",
    ),
    "dual": (RANDOM, WALLED, "some"),
    "ipv6": (NO_UDP, WALLED, "some"),
    "no-udp": (NO_UDP, NO_UDP, "none"),
    "tcp443": (NO_UDP, NO_UDP, "none"),
    "docker": (MASQUERADE, NO_UDP, "most"),
    "overlap": (MASQUERADE, NO_UDP, "most"),
    "lan": (MASQUERADE, NO_UDP, "most"),
    # The router says that it maps ports at an address which the service does not see
    "mapped": (RANDOM, NO_UDP, "some"),
    "sequential": (nat(APDM, APDF, "unknown", "sequential"), NO_UDP, "most"),
}


LIFETIME_OF = "short"
"""The profile of which the lifetime of mappings is measured as well, which takes half a minute."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is said on the left of every profile, some at the same time; the longest begins first."""
    need_namespaces()
    need("miniupnpd")
    directory = tmp_path_factory.mktemp("netcheck")
    programs = Programs(directory)
    with KernelNetwork() as network:
        sites = {name: site for (name, side), site in build(network, list(PROFILES)).items() if side == LEFT}
        network.start()
        six = SERVICE6.replace(":", "\\:")
        # It has a second address and port.
        rendezvous = programs.rendezvous(
            *("--host", SERVICE4, "--reflector-port", str(REFLECTOR_PORT)),
            *("--control", f"tcp:{CONTROL_PORT}", "--control", f"tcp:{CONTROL_PORT}:interface={six}"),
            *("--alternate-address", SERVICE4_SECOND, "--alternate-address", SERVICE6),
            prefix=network.service.prefix,
        )
        try:
            address = str(rendezvous.wait("listening", 60.0)["address"])
            with ThreadPoolExecutor(AT_ONCE) as pool:
                running = {
                    name: pool.submit(
                        *(netcheck, sites[name], address, directory),
                        *(("--lifetime", "30") if name == LIFETIME_OF else ()),
                    )
                    for name in sorted(sites, key=lambda name: name != LIFETIME_OF)
                }
                return {name: report.result() for name, report in running.items()}
        finally:
            programs.close()


def netcheck(site: Site, address: str, directory: Path, *options: str) -> dict[str, Any]:
    """Run it at a site."""
    if site.sees6:
        address = address.replace(SERVICE4, f"[{SERVICE6}]")
    state = ("--state-dir", str(directory / f"state-{site.name}"))
    done = subprocess.run(
        [*site.host.prefix, PUNCH, "netcheck", "--json", "--rendezvous", address, *state, *options],
        env={key: value for key, value in os.environ.items() if not key.startswith("PUNCH_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, (site.name, done.stdout, done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    print(site.name, done.stdout)
    return report


def differences(name: str, report: dict[str, Any]) -> list[str]:
    """Where a report is not what is expected of a profile."""
    ipv4, ipv6, direct = EXPECTED[name]
    wrong = [
        f"{name}: {family} {key} is {report[family] and report[family][key]}, not {value}"
        for family, expected in (("ipv4", ipv4), ("ipv6", ipv6))
        for key, value in expected.items()
        if report[family] is None or report[family][key] != value
    ]
    if report["direct"] != direct:
        wrong.append(f"{name}: direct is {report['direct']}, not {direct}")
    udp = ipv4.get("udp", True) or ipv6.get("udp", True)
    transports = {"udp": udp, "tcp": True, "turn-udp": udp, "turn-tcp": True, "turn-tls": True}
    if report["transports"] != transports:
        wrong.append(f"{name}: transports are {report['transports']}")
    return wrong


def test_every_profile(reports: dict[str, dict[str, Any]]) -> None:
    assert [line for name, report in reports.items() for line in differences(name, report)] == []


def test_lifetime(reports: dict[str, dict[str, Any]]) -> None:
    """Linux keeps a mapping that was in use for 120 s, unless it is told otherwise: here for 15."""
    lifetime = reports[LIFETIME_OF]["ipv4"]["mapping_lifetime"]
    assert lifetime["at_least"] <= 15 <= lifetime["below"]
    assert lifetime["below"] - lifetime["at_least"] < 10


def test_every_profile_is_expected() -> None:
    """None is added without saying what netcheck makes of it."""
    assert list(EXPECTED) == list(PROFILES)
