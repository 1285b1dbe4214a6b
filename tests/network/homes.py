"""Two hosts, each behind a kernel NAT of its own, and a rendezvous on the public network."""

from __future__ import annotations

from tests.netns import Namespaces
from tests.network.test_namespaces import SERVICE, two_homes
from tests.processes import JSONProcess, Programs


class Homes:
    """The hosts, the router of Alice's, and the rendezvous, which runs."""

    def __init__(self, namespaces: Namespaces, running: Programs) -> None:
        self.running = running
        self.directory = running.directory
        self.service, self.home_of_alice, self.home_of_bob, _ = two_homes(namespaces)
        (self.router,) = [host for host in namespaces.hosts if host.name.endswith("nat-a")]
        self.rendezvous = self.serve()
        self.address: str = self.rendezvous.wait("listening")["address"]

    def serve(self) -> JSONProcess:
        """Start the rendezvous, with the key that it had before."""
        return self.running.rendezvous("--host", SERVICE, state="state-service", prefix=self.service.prefix)

    def block_direct_paths(self) -> None:
        """From now on Alice's router lets nothing through between the two homes; the relay is open."""
        self.router.nft(
            """
            table ip block {
                chain forward {
                    type filter hook forward priority -10;
                    ip daddr 198.51.100.12 drop
                    ip saddr 198.51.100.12 drop
                }
            }
            """
        )

    def unblock(self) -> None:
        """The direct paths are open again."""
        self.router.run("nft", "delete", "table", "ip", "block")
