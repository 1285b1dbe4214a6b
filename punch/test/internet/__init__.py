"""
A simulated internet that unmodified Twisted programs run on: hosts with reactors, LANs, NATs, lossy links.

Begin with `Internet`; `docs/simulation.md` explains how to use it.
"""

from __future__ import annotations

from punch.test.internet.host import Host
from punch.test.internet.links import LinkSpec
from punch.test.internet.nat import NAT, Filtering, Firewall, Hairpin, Mapping, Ports, Unsolicited
from punch.test.internet.network import Lan, Network
from punch.test.internet.packet import Packet, Seen
from punch.test.internet.reactor import HostReactor
from punch.test.internet.testcase import InternetTestCase
from punch.test.internet.world import UPLINK, Internet, SimulationTimeout

__all__ = [
    "NAT",
    "UPLINK",
    "Filtering",
    "Firewall",
    "Hairpin",
    "Host",
    "HostReactor",
    "Internet",
    "InternetTestCase",
    "Lan",
    "LinkSpec",
    "Mapping",
    "Network",
    "Packet",
    "Ports",
    "Seen",
    "SimulationTimeout",
    "Unsolicited",
]
