"""
The IANA's registries of special-purpose addresses (RFC 6890), for tests.

Source: https://www.iana.org/assignments/iana-ipv4-special-registry/iana-ipv4-special-registry-1.csv and
https://www.iana.org/assignments/iana-ipv6-special-registry/iana-ipv6-special-registry-1.csv, in the version
whose newest row is RFC 9780's of 2025-04. Copied on 2026-11-28 by way of the repository plausible/analytics,
commit c8e10cc2d570, directory priv/ip; without dates, line breaks inside of fields and footnotes, and with
two rows for a row of two blocks.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

_IPV4 = """
0.0.0.0/8|"This network"|RFC791|True|False|False|False|True
0.0.0.0/32|"This host on this network"|RFC1122|True|False|False|False|True
10.0.0.0/8|Private-Use|RFC1918|True|True|True|False|False
100.64.0.0/10|Shared Address Space|RFC6598|True|True|True|False|False
127.0.0.0/8|Loopback|RFC1122|False|False|False|False|True
169.254.0.0/16|Link Local|RFC3927|True|True|False|False|True
172.16.0.0/12|Private-Use|RFC1918|True|True|True|False|False
192.0.0.0/24|IETF Protocol Assignments|RFC6890|False|False|False|False|False
192.0.0.0/29|IPv4 Service Continuity Prefix|RFC7335|True|True|True|False|False
192.0.0.8/32|IPv4 dummy address|RFC7600|True|False|False|False|False
192.0.0.9/32|Port Control Protocol Anycast|RFC7723|True|True|True|True|False
192.0.0.10/32|Traversal Using Relays around NAT Anycast|RFC8155|True|True|True|True|False
192.0.0.170/32|NAT64/DNS64 Discovery|RFC8880, RFC7050|False|False|False|False|True
192.0.0.171/32|NAT64/DNS64 Discovery|RFC8880, RFC7050|False|False|False|False|True
192.0.2.0/24|Documentation (TEST-NET-1)|RFC5737|False|False|False|False|False
192.31.196.0/24|AS112-v4|RFC7535|True|True|True|True|False
192.52.193.0/24|AMT|RFC7450|True|True|True|True|False
192.88.99.0/24|Deprecated (6to4 Relay Anycast)|RFC7526|||||
192.88.99.2/32|6a44-relay anycast address|RFC6751|True|True|True|False|False
192.168.0.0/16|Private-Use|RFC1918|True|True|True|False|False
192.175.48.0/24|Direct Delegation AS112 Service|RFC7534|True|True|True|True|False
198.18.0.0/15|Benchmarking|RFC2544|True|True|True|False|False
198.51.100.0/24|Documentation (TEST-NET-2)|RFC5737|False|False|False|False|False
203.0.113.0/24|Documentation (TEST-NET-3)|RFC5737|False|False|False|False|False
240.0.0.0/4|Reserved|RFC1112|False|False|False|False|True
255.255.255.255/32|Limited Broadcast|RFC8190, RFC919|False|True|False|False|True
"""

_IPV6 = """
::1/128|Loopback Address|RFC4291|False|False|False|False|True
::/128|Unspecified Address|RFC4291|True|False|False|False|True
::ffff:0:0/96|IPv4-mapped Address|RFC4291|False|False|False|False|True
64:ff9b::/96|IPv4-IPv6 Translat.|RFC6052|True|True|True|True|False
64:ff9b:1::/48|IPv4-IPv6 Translat.|RFC8215|True|True|True|False|False
100::/64|Discard-Only Address Block|RFC6666|True|True|True|False|False
100:0:0:1::/64|Dummy IPv6 Prefix|RFC9780|True|False|False|False|False
2001::/23|IETF Protocol Assignments|RFC2928|False|False|False|False|False
2001::/32|TEREDO|RFC4380, RFC8190|True|True|True|N/A|False
2001:1::1/128|Port Control Protocol Anycast|RFC7723|True|True|True|True|False
2001:1::2/128|Traversal Using Relays around NAT Anycast|RFC8155|True|True|True|True|False
2001:1::3/128|DNS-SD Service Registration Protocol Anycast|RFC9665|True|True|True|True|False
2001:2::/48|Benchmarking|RFC5180|True|True|True|False|False
2001:3::/32|AMT|RFC7450|True|True|True|True|False
2001:4:112::/48|AS112-v6|RFC7535|True|True|True|True|False
2001:10::/28|Deprecated (previously ORCHID)|RFC4843|||||
2001:20::/28|ORCHIDv2|RFC7343|True|True|True|True|False
2001:30::/28|Drone Remote ID Protocol Entity Tags (DETs) Prefix|RFC9374|True|True|True|True|False
2001:db8::/32|Documentation|RFC3849|False|False|False|False|False
2002::/16|6to4|RFC3056|True|True|True|N/A|False
2620:4f:8000::/48|Direct Delegation AS112 Service|RFC7534|True|True|True|True|False
3fff::/20|Documentation|RFC9637|False|False|False|False|False
5f00::/16|Segment Routing (SRv6) SIDs|RFC9602|True|True|True|False|False
fc00::/7|Unique-Local|RFC4193, RFC8190|True|True|True|False|False
fe80::/10|Link-Local Unicast|RFC4291|True|True|False|False|True
"""


class Row(NamedTuple):
    """
    One block of addresses.

    :ivar globally_reachable: as the registry has it; empty for blocks whose allocation has ended.
    """

    block: IPv4Network | IPv6Network
    name: str
    rfc: str
    globally_reachable: str


def rows() -> list[Row]:
    """All rows, IPv4 first."""
    found = []
    for line in (_IPV4 + _IPV6).split("\n"):
        if line:
            block, name, rfc, _source, _destination, _forwardable, reachable, _reserved = line.split("|")
            found.append(Row(ip_network(block), name, rfc, reachable))
    return found
