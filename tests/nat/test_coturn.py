"""
A coturn that is killed (SIGKILL) while it relays a transfer between two sites that need a relay. The
transfer goes on over another coturn, or over our own relay, as in `test_events`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from punch.wire.turn import TurnTransport
from tests.needs import need_namespaces
from tests.processes import Programs
from tests.relay.coturn import SECRET, Coturn

from .grid import path_now, start_peer, start_rendezvous
from .kernel_network import REFLECTOR_PORT, KernelNetwork, route_by_core
from .test_events import ConnectedPair, Scenario, assert_continued, link, sites, transfer_during

SIDES = ("fully-drop", "masq-drop")

NO_UDP = f"""
table inet no_udp {{
    chain input {{
        type filter hook input priority 0;
        udp dport {REFLECTOR_PORT} drop
    }}
}}
"""
"""For the rendezvous's host: no UDP reaches the service, so its relay has TCP alone."""


@dataclass
class CoturnNetwork:
    """A network with a rendezvous to come, and two coturns that do not run yet."""

    network: KernelNetwork
    programs: Programs
    coturns: tuple[Coturn, Coturn]

    def transfer_during(
        self, options: list[str], event: Callable[[], None], *turn: tuple[Coturn, TurnTransport]
    ) -> None:
        """A relayed transfer, with `event` in the middle."""
        secret = self.programs.directory / "secret"
        secret.write_text(SECRET + "\n")
        servers = [word for each, how in turn for word in ("--turn", str(each.server(how).url))]
        options = [*options, "--turn-secret-file", str(secret), *servers]
        _, address = start_rendezvous(self.programs, self.network, options)
        left, right = sites(self.network, "turn", 1, SIDES)
        # The link is to stay on the relay
        options = ["--spray", "never"]
        alice, bob = (start_peer(self.programs, site, address, options) for site in (left, right))
        for peer in (alice, bob):
            peer.wait("registered", 60.0)
        pair = ConnectedPair(self.network, 1, left, right, alice, bob)
        link(pair)
        assert path_now(alice, bob) == "relay"
        assert_continued(transfer_during(pair, Scenario(SIDES, lambda _: event())))
        assert path_now(alice, bob) == "relay"


@pytest.fixture
def coturn_network(tmp_path: Path) -> Iterator[CoturnNetwork]:
    """One for each test."""
    need_namespaces()
    programs = Programs(tmp_path)
    with KernelNetwork() as network:
        coturns: list[Coturn] = []
        try:
            for name in ("turn-one", "turn-two"):
                host, address = network.namespaces.host(name), network.public4()
                network.namespaces.plug(host, network.public, "eth0", f"{address}/24")
                route_by_core(host, [address])
                directory = tmp_path / name
                directory.mkdir()
                coturns.append(Coturn(directory, address, 3478, 5349, prefix=host.prefix))
            yield CoturnNetwork(network, programs, (coturns[0], coturns[1]))
        finally:
            programs.close()
            for coturn in coturns:
                coturn.kill()


@pytest.mark.parametrize("how", [TurnTransport.UDP, TurnTransport.TCP])
def test_another_coturn_takes_over(coturn_network: CoturnNetwork, how: TurnTransport) -> None:
    """There is no other relay: the rendezvous hands out two coturns instead of its own."""
    one, two = coturn_network.coturns
    one.start()

    def kill() -> None:
        two.start()
        one.kill()

    coturn_network.transfer_during(["--relay", "off"], kill, (one, how), (two, how))


def test_our_own_takes_over(coturn_network: CoturnNetwork) -> None:
    """coturn is used over UDP, where our own can't be reached; then our own has to do, over TCP."""
    coturn_network.network.service.nft(NO_UDP)
    one, _ = coturn_network.coturns
    one.start()
    coturn_network.transfer_during([], one.kill, (one, TurnTransport.UDP))
