"""The permissions (RFC 8656, section 9) and channels (section 12) of a TURN client."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from punch.net.deadlines import earliest
from punch.wire.address import Address
from punch.wire.turn import CHANNEL_LIFETIME, FIRST_CHANNEL, LAST_CHANNEL, PERMISSION_LIFETIME

RENEW_AFTER = 240.0
"""Seconds after which a permission or channel is renewed if it was used since."""
TRY_AGAIN_AFTER = 60.0
"""Seconds until a permission or a channel that the server refused is requested again."""
MAX_HOSTS = 128
"""Permissions at once. A peer has at most 32 candidates, but an allocation may serve many peers."""
WAITING = 4
"""Messages kept for an address whose permission was requested, in case the request is lost."""


class Grant(Enum):
    """The answer of the server."""

    PENDING = "pending"
    GRANTED = "granted"
    REFUSED = "refused"


@dataclass(eq=False)
class Permission:
    """
    A permission for one IP address to send to us, and for us to send to it.

    `peer` is an address with that IP address. Servers ignore its port, except at their own IP address: from
    there they relay only what another of their allocations sends, so each port has a permission.
    """

    peer: Address
    used_at: float
    grant: Grant = Grant.PENDING
    renew_at: float | None = None
    """When to renew it, in seconds; None: a request is under way, or none is wanted."""
    expires_at: float | None = None
    waiting: deque[tuple[bytes, Address]] = field(default_factory=lambda: deque(maxlen=WAITING))

    def use(self, now: float) -> bool:
        """Note a use. Returns whether the permission was not renewed and has to be requested again."""
        lapsed = self.renew_at is None and now - self.used_at >= RENEW_AFTER
        self.used_at = now
        return lapsed


@dataclass(eq=False)
class Channel:
    """A channel number for one peer."""

    number: int
    peer: Address
    used_at: float
    bound: bool = False
    renew_at: float | None = None
    """When to bind it (again), in seconds; None: a request is under way, or none is wanted."""
    expires_at: float = 0.0

    def use(self, now: float) -> bool:
        """Note a use. Returns whether the channel was not renewed and has to be bound again."""
        lapsed = self.renew_at is None and now - self.used_at >= RENEW_AFTER
        self.used_at = now
        return lapsed


class ClientPermissions:
    """The tables of permissions and channels, with their times. The client makes the requests."""

    def __init__(self, server: str = "") -> None:
        """
        :param server: the IP address that relays.
        """
        self._server = server
        self._permissions: dict[Address, Permission] = {}
        self._channels: dict[Address, Channel] = {}
        self._by_number: dict[int, Channel] = {}

    def permission(self, peer: Address) -> Permission | None:
        """Return the permission that covers this peer; None if there is none."""
        return self._permissions.get(self._key(peer))

    def add_permission(self, peer: Address, now: float) -> Permission | None:
        """Add a permission for this peer, which is to be requested; returns None if there are too many."""
        if len(self._permissions) >= MAX_HOSTS:
            return None
        permission = self._permissions[self._key(peer)] = Permission(peer, now)
        return permission

    def _key(self, peer: Address) -> Address:
        return peer if peer.host == self._server else Address(peer.host, 0)

    def channel(self, peer: Address) -> Channel | None:
        """Return the channel of this peer; None if there is none."""
        return self._channels.get(peer)

    def channel_of(self, number: int) -> Channel | None:
        """Return the channel with this number; None if there is none."""
        return self._by_number.get(number)

    def add_channel(self, peer: Address, now: float) -> Channel | None:
        """
        Add a channel for this peer, which is to be bound; returns None if all numbers were used. No number is
        used again for another peer: a server may remember it for five minutes longer than we do, and a late
        packet might be taken for another peer's.
        """
        number = FIRST_CHANNEL + len(self._by_number)
        if number > LAST_CHANNEL:
            return None
        channel = self._channels[peer] = self._by_number[number] = Channel(number, peer, now)
        return channel

    def granted(self, peer: Address, now: float) -> None:
        """The server has granted or renewed a permission, by CreatePermission or ChannelBind."""
        permission = self._permissions.get(self._key(peer))
        if permission is not None:
            permission.grant = Grant.GRANTED
            permission.renew_at = now + RENEW_AFTER
            permission.expires_at = now + PERMISSION_LIFETIME

    def bound(self, channel: Channel, now: float) -> None:
        """The server has bound or renewed a channel."""
        channel.bound = True
        channel.renew_at = now + RENEW_AFTER
        channel.expires_at = now + CHANNEL_LIFETIME
        self.granted(channel.peer, now)

    def not_bound(self, channel: Channel, now: float) -> None:
        """The server has not bound or renewed a channel. One that is bound stays so until it expires."""
        channel.renew_at = now + TRY_AGAIN_AFTER

    def renew(self, now: float) -> None:
        """Renew all that are in use: some may have expired at the server."""
        granted: list[Permission | Channel] = [*self._permissions.values(), *self._channels.values()]
        for each in granted:
            if each.renew_at is not None:
                each.renew_at = now

    def get_timer(self) -> float | None:
        """When to call `due`."""
        times = [each.renew_at for each in self._permissions.values()]
        times += [each.expires_at for each in self._permissions.values()]
        times += [each.renew_at for each in self._channels.values()]
        times += [each.expires_at for each in self._channels.values() if each.bound]
        return earliest(times)

    def due(self, now: float) -> tuple[list[Permission], list[Channel]]:
        """Return what has to be renewed now, and drop what has expired or was not used."""
        channels = []
        for channel in self._channels.values():
            if channel.bound and now >= channel.expires_at:
                channel.bound = False
            if channel.renew_at is not None and now >= channel.renew_at:
                channel.renew_at = None
                if channel.used_at > now - RENEW_AFTER:
                    channels.append(channel)
                else:
                    # Its permission, which it would have renewed, ends before it does
                    channel.bound = False
        renewed = {self._key(channel.peer) for channel in channels}
        permissions = []
        for key, permission in list(self._permissions.items()):
            if permission.expires_at is not None and now >= permission.expires_at:
                del self._permissions[key]
            elif permission.renew_at is not None and now >= permission.renew_at:
                permission.renew_at = None
                if permission.used_at > now - RENEW_AFTER and key not in renewed:
                    permissions.append(permission)
        return permissions, channels
