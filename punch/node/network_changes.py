"""What a node does when the network of this machine changes, or the machine has slept."""

from __future__ import annotations

from collections.abc import Collection

from punch.node.calls import Calls
from punch.node.control.client import ControlClient
from punch.wire.address import Address
from punch.wire.control import RenewRelays

CHECK_TIME = 1.2
"""The least time that the rendezvous has to answer a check of the connection to it, in seconds."""
CHECK_TRIPS = 4
"""
Round-trip times of the slowest link that it has in addition, since the connection may share a queue with it.
"""


class NetworkChanges:
    """Tells the calls and links of a node about changes, and checks the connection to the rendezvous."""

    def __init__(self, calls: Calls, control: ControlClient) -> None:
        self._calls = calls
        self._control = control

    def check_control(self, gone: Collection[str] = ()) -> None:
        """
        Connect to the rendezvous again unless it answers soon.

        :param gone: local addresses that this machine no longer has.
        """
        links = [call.link for call in self._calls.links.values()]
        slowest = max((link.rtt or 0.0 for link in links if link is not None), default=0.0)
        self._control.check(CHECK_TIME + CHECK_TRIPS * slowest, gone)

    def paths_in_use(self) -> list[Address]:
        """Return the local addresses of the paths that links have."""
        return [call.pair.local_base for call in self._calls.links.values() if call.pair is not None]

    def network_changed(self, bases: list[Address], gone: Collection[str]) -> None:
        """This machine has other addresses."""
        self.check_control(gone)
        for call in self._calls:
            call.network_changed(bases)

    def network_back(self) -> None:
        """A reflector answers again."""
        self.check_control()
        for call in list(self._calls.links.values()):
            call.network_back()

    def woke(self) -> None:
        """The machine has slept."""
        self.check_control()
        for call in list(self._calls.links.values()):
            call.woke()

    def renew_relays(self) -> None:
        """The relays' credentials end soon."""
        self._control.send(RenewRelays())
