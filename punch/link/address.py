"""The address of the other side of a link, as Twisted sees it: a peer, wherever it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from punch.identity import PeerID

if TYPE_CHECKING:
    from punch.link.link import Link


@implementer(IAddress)
@dataclass(frozen=True)
class LinkAddress:
    """
    A peer at one end of a stream. Its path may change at any time and is not part of the address.

    :ivar link: the link that the stream is on.
    """

    peer: PeerID
    link: Link = field(repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.peer)
