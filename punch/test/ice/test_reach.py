"""Addresses that no host has, but a peer names or its checks seem to come from."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials, IceRole, build_check
from punch.ice.reach import may_pair
from punch.test.ice.ice_network import IceNetwork
from punch.wire.address import Address
from punch.wire.peers.candidate import Candidate, CandidateType

NO_HOSTS = (
    "0.0.0.7",
    "127.0.0.1",
    "192.0.0.2",
    "192.0.0.170",
    "192.88.99.1",
    "224.0.0.251",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::7f00:1",
    "::cb00:7142",
    "::ffff:0:cb00:7142",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b::cb00:7142",
    "64:ff9b:1::cb00:7142",
    "2001::cb00:7142",
    "2001:10::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:e000:1::1",
    "2001:db8::5efe:7f00:1",
    "2001:db8::5efe:c0a8:101",
    "fe80::1",
    "ff02::1",
    "ff0e::fb",
)
"""
Loopback, multicast, broadcast, reserved, of translators and tunnels; forms of IPv4 addresses, harmless ones
included, since each would have limits of its own.
"""
BASES = Address("203.0.113.9", 4000), Address("2001:db8:1::9", 4000)
TRANSLATED = Address("192.0.0.1", 4001)
EVE = IceCredentials("eveUfrag", "e" * 24)
PRIVATE = "10.0.0.1", "100.64.0.1", "172.16.0.1", "192.168.1.1", "198.18.0.1"


class ReachTests(SynchronousTestCase):
    """An agent with addresses of both families."""

    def test_overlay_network(self) -> None:
        """Yggdrasil's addresses are reserved on the internet, and reach a peer all the same."""
        ours = Address("201:1111::9", 4000)
        self.assertTrue(may_pair(ours, Address("300:2222::7", 4000)))
        self.assertFalse(may_pair(ours, Address("400::7", 4000)))

    def agent(self, *more: Address, nat64: str = "none") -> Agent:
        """An agent that knows the peer's credentials, and refuses addresses that begin like this."""
        random = IceNetwork().random.randbytes
        agent = Agent(
            controlling=True,
            credentials=IceCredentials.generate(random),
            random=random,
            refused=lambda host: host.startswith(nat64),
        )
        for base in (*BASES, *more):
            agent.add_local_address(base)
        agent.set_remote(EVE, 0.05, 0.0)
        return agent

    def sent(self, agent: Agent) -> set[str]:
        """To which hosts it sends in half a minute."""
        found: set[str] = set()
        for step in range(600):
            found |= {transmit.remote.host for transmit in agent.datagrams_to_send(step * 0.05)}
        return found

    def name(self, agent: Agent, *hosts: str) -> None:
        """The peer signals candidates at these hosts."""
        for number, host in enumerate(hosts):
            candidate = Candidate(CandidateType.HOST, Address(host, 5000), 2**30 + number, str(number))
            agent.add_remote_candidate(candidate, 0.0)

    def test_candidates(self) -> None:
        """Such candidates get no checks. A candidate that a host may have does."""
        for host in NO_HOSTS:
            agent = self.agent()
            self.name(agent, host, "203.0.113.66")
            self.assertEqual(self.sent(agent), {"203.0.113.66"}, host)

    def test_checks_from_there(self) -> None:
        """An authenticated check that seems to come from such an address is not answered."""
        for host in (*NO_HOSTS, "203.0.113.66"):
            agent = self.agent()
            (local,) = (base for base in BASES if base.is_ipv6 == (":" in host))
            check = build_check(
                bytes(12),
                EVE,
                agent.credentials,
                IceRole.CONTROLLED,
                7,
                2**24,
            )
            agent.receive_datagram(check, Address(host, 5000), local, 0.0)
            self.assertEqual(self.sent(agent), {host} if host == "203.0.113.66" else set(), host)

    def test_the_prefix_of_a_nat64(self) -> None:
        """Addresses that are IPv4 addresses in the NAT64's form get nothing, signalled or learned."""
        form = "2001:db8:64::cb00:7142"
        agent = self.agent(nat64="2001:db8:64:")
        self.name(agent, form)
        check = build_check(bytes(12), EVE, agent.credentials, IceRole.CONTROLLED, 7, 2**24)
        agent.receive_datagram(check, Address(form, 5000), BASES[1], 0.0)
        self.assertEqual(self.sent(agent), set())

    def test_an_address_by_translation(self) -> None:
        """From there checks go only to the internet, and the peer is not told of it."""
        for host in PRIVATE:
            self.assertFalse(may_pair(TRANSLATED, Address(host, 5000)), host)
            self.assertTrue(may_pair(BASES[0], Address(host, 5000)), host)
        self.assertTrue(may_pair(TRANSLATED, Address("203.0.113.66", 5000)))
        self.assertFalse(may_pair(BASES[0], TRANSLATED))
        agent = self.agent(TRANSLATED)
        self.assertEqual([each.address for each in agent.local_candidates], list(BASES))
        told = []
        while (event := agent.next_event()) is not None:
            told.append(event)
        self.assertEqual(len(told), len(BASES), told)
