"""A rendezvous with all the addresses and ports that netcheck uses, on the simulated internet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from punch.identity import Identity
from punch.natcheck.report import NetcheckReport
from punch.net.udp.sockets import open_portable
from punch.node.netcheck import NetcheckRun
from punch.node.network.port_mappings import Gateways
from punch.rendezvous.config import AlternateAddress, RendezvousConfig
from punch.rendezvous.members.membership import Membership
from punch.rendezvous.service import RendezvousService
from punch.test.internet import Host, Internet
from punch.wire.rendezvous_address import RendezvousAddress

SERVICE, SECOND, SERVICE6 = "198.51.100.1", "198.51.100.2", "2001:db8::1"


class NetcheckNetwork:
    """
    A network with a rendezvous, in which netcheck runs on any host.

    :param second: whether the service has a second port.
    :param alternates: its further addresses; more than one port is bound to each of them then.
    :param through: addresses at which translators reach it.
    """

    def __init__(
        self,
        net: Internet,
        *,
        second: bool = True,
        alternates: Sequence[str] = (SECOND,),
        relay: bool = False,
        reflector_port: int = 3478,
        through: Sequence[str] = (),
        membership: Membership | None = None,
    ) -> None:
        self.net = net
        self.host = net.host("rendezvous", SERVICE, SECOND, SERVICE6, *through)
        self.reports: list[str] = []
        config = RendezvousConfig(
            identity=Identity.generate(net.random_bytes("rendezvous key")),
            control="tcp:7001",
            host=SERVICE,
            reflector_host=SERVICE if alternates else None,
            reflector_port=reflector_port,
            second_reflector=second,
            alternate_addresses=[AlternateAddress(each, each) for each in alternates],
            relay=relay,
            machine_addresses=(SERVICE, SERVICE6),
        )
        self.service = RendezvousService(
            config,
            reactor=self.host.reactor,
            monotonic=net.monotonic,
            random=net.random_bytes("rendezvous"),
            report=lambda event, **fields: self.reports.append(event),
            membership=membership,
        )
        self.service.startService()
        net.run_until(lambda: self.service.address is not None, 1.0, "the rendezvous listens")

    @property
    def address(self) -> RendezvousAddress:
        """What it prints when it starts."""
        assert self.service.address is not None
        return self.service.address

    def begin(
        self,
        host: Host,
        *,
        lifetime: float | None = None,
        rendezvous: RendezvousAddress | None = None,
        gateways: Gateways | None = None,
        member: Identity | None = None,
        **options: Any,
    ) -> Deferred[NetcheckReport]:
        """
        Start netcheck on a host.

        :param options: further parameters of `NetcheckRun`.
        """
        return NetcheckRun(
            reactor=host.reactor,
            rendezvous=rendezvous or self.address,
            addresses=lambda: host.addresses,
            open_socket=open_portable,
            random=self.net.random_bytes(f"netcheck {host.name}"),
            monotonic=self.net.monotonic,
            lifetime=lifetime,
            gateways=gateways,
            member=member,
            **options,
        ).start()

    def run(
        self,
        host: Host,
        *,
        lifetime: float | None = None,
        rendezvous: RendezvousAddress | None = None,
        gateways: Gateways | None = None,
        member: Identity | None = None,
        timeout: float = 30.0,
        **options: Any,
    ) -> NetcheckReport:
        """Run netcheck on a host, and check that it leaves no port open."""
        report = self.net.wait(
            self.begin(
                host, lifetime=lifetime, rendezvous=rendezvous, gateways=gateways, member=member, **options
            ),
            timeout + (lifetime or 0.0),
            f"{host.name}: a report",
        )
        self.net.advance(1.0)
        if host.reactor.open_ports:
            raise AssertionError(f"still open: {host.reactor.open_ports}")
        return report
