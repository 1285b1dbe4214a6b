"""
The core of `punch netcheck`: finds out what the networks between here and a rendezvous do to UDP.

Pure. The shell opens sockets when asked to (`bind`), brings datagrams and the service's answers, and after
any input sends `datagrams_to_send()` and `probes_to_send()`, until all is `done`.
"""

from __future__ import annotations

from collections.abc import Sequence

from punch.identity import PeerID, RandomBytes
from punch.natcheck.experiments import Places, examine
from punch.natcheck.report import FamilyReport
from punch.natcheck.tasks import Later
from punch.natcheck.transactions import Bind, Transactions
from punch.wire.address import Address, Transmit
from punch.wire.control import Probe, Probed


class Netcheck:
    """All experiments, on both address families at once."""

    def __init__(self, *, peer: PeerID, random: RandomBytes, bind: Bind, now: float) -> None:
        """
        :param peer: who asks, as on the control channel.
        :param bind: opens a socket at one of our addresses, and gives its local address.
        :param now: monotonic seconds, as everywhere here.
        """
        self._transactions = Transactions(peer, random, bind, now)
        self._reports: dict[bool, Later[FamilyReport]] = {}

    def start(
        self,
        hosts: Sequence[str],
        services: Sequence[str],
        port: int,
        second_port: int = 0,
        lifetime: float | None = None,
    ) -> None:
        """
        Begin.

        :param hosts: our own IP addresses, in order of preference.
        :param services: the service's; the first of each family is the main one.
        :param port: the reflector's UDP port.
        :param second_port: its second one, 0 if there is none.
        :param lifetime: seconds that measuring the lifetime of mappings may take; None leaves it out.
        """
        for ipv6 in (False, True):
            there = [each for each in services if (":" in each) == ipv6]
            here = [each for each in hosts if (":" in each) == ipv6]
            if there:
                places = Places.of(there, port, second_port)
                self._reports[ipv6] = self._transactions.spawn(
                    examine(self._transactions, places, here, lifetime)
                )

    @property
    def done(self) -> bool:
        """Whether all that can be found out is."""
        return all(each.done for each in self._reports.values())

    @property
    def ipv4(self) -> FamilyReport | None:
        """What was found out about IPv4; None if the service has no such address."""
        return self._report(False)

    @property
    def ipv6(self) -> FamilyReport | None:
        """The same for IPv6."""
        return self._report(True)

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """A datagram came from `remote` to our socket at `local`."""
        self._transactions.receive_datagram(data, remote, local, now)

    def receive_probed(self, reply: Probed, now: float) -> None:
        """The service answered a probe."""
        self._transactions.receive_probed(reply, now)

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """The datagrams to send now."""
        return self._transactions.datagrams_to_send()

    def probes_to_send(self) -> Sequence[Probe]:
        """What to ask the service for now."""
        return self._transactions.probes_to_send()

    def get_timer(self) -> float | None:
        """When to call `handle_timer`."""
        return None if self.done else self._transactions.get_timer()

    def handle_timer(self, now: float) -> None:
        """Time has passed."""
        self._transactions.handle_timer(now)

    def _report(self, ipv6: bool) -> FamilyReport | None:
        report = self._reports.get(ipv6)
        return None if report is None else report.value
