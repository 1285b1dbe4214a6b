"""
The interface to a node in this process or in another one (`NodeAccess`), who may open a service (`Allow`),
and what programs that share a node report about their transfers. They report it because the node itself only
carries streams, and does not know which files are sent on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory

from punch.identity import PeerID, PeerIDError
from punch.link.services import Authorize, anyone
from punch.local.protocol import JSON, CommandError

DELIVERY_TIME = 60.0
"""Seconds that a process which ends waits until what it has written has arrived."""


@dataclass(frozen=True)
class Allow:
    """
    Who may open a service: those named here, or else those that the address book grants it.

    :ivar anyone: every peer.
    """

    peers: frozenset[PeerID] = frozenset()
    anyone: bool = False

    @property
    def authorize(self) -> Authorize | None:
        """The same as `INode.serve` takes it."""
        if self.anyone:
            return anyone
        return self.peers.__contains__ if self.peers else None


class NodeAccess(Protocol):
    """The node of an identity: in this process (`OwnNode`), or in another one (`AttachedNode`)."""

    @property
    def peer_id(self) -> PeerID:
        """The ID of the node."""

    @property
    def rendezvous(self) -> str:
        """The addresses of its rendezvous, separated by commas."""

    def open(self, peer: PeerID, service: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Open a stream to a service of a peer, which is called if there is no link.

        :return: as `Link.connect`. It fails with `CommandError`.
        """

    def serve(self, service: str, factory: IProtocolFactory, allow: Allow) -> Deferred[Callable[[], None]]:
        """
        Answer streams of peers to a service.

        :return: fires with what ends the service; fails with `CommandError`.
        """

    def when_delivered(self, peer: PeerID) -> Deferred[bool]:
        """
        Wait until a peer has all that was written on streams to it that have ended, so that this process may
        end. If the node is in another process, which goes on, it is enough that this one has all. It does not
        wait for ever.

        :return: fires with False if that can't be said. It never fails.
        """

    def status(self) -> Deferred[JSON]:
        """Return what the node has now, as docs/json.md describes it."""

    def report_transfer(self, transfer: int, report: TransferReport | None) -> Deferred[None]:
        """
        Tell the node how far a transfer of this program is, for those who ask what the node does. It is
        forgotten when the program ends.

        :param transfer: a number that this program gives the transfer.
        :param report: None: the transfer is over.
        :return: fires when that is noted. It fails with `CommandError`, as where the node is of a release
            that takes no reports.
        """

    def when_lost(self) -> Deferred[None]:
        """Fires when the node is no longer there. It never fails."""


# -- what programs report of their transfers --

MAX_REPORTED = 64
"""Transfers that one program may report at the same time."""
MAX_TEXT = 255
"""Characters of the longest text in a report: the name of a file has at most 255 bytes."""
REPORT_INTERVAL = 1.0
"""Seconds between two reports of a transfer."""
STAGES = ("offered", "running", "waiting")
"""
The stages of a transfer that is not over: the receiving user has not answered; files are sent; it was
interrupted, and is tried again.
"""


@dataclass(frozen=True)
class TransferReport:
    """
    How far a transfer is.

    :ivar program: the program whose transfer it is, such as `punch send`.
    :ivar outgoing: whether this side sends.
    :ivar stage: one of `STAGES`.
    :ivar name: what is transferred: the name of the first item.
    :ivar items: how many items there are.
    :ivar size: bytes of all; None: it is not known.
    :ivar position: bytes that are there.
    """

    program: str
    peer: PeerID
    outgoing: bool
    stage: str
    name: str
    items: int
    size: int | None
    position: int

    def fields(self) -> JSON:
        """Return the fields of a report (docs/json.md)."""
        return {**vars(self), "peer": str(self.peer)}

    @classmethod
    def read(cls, fields: JSON) -> TransferReport:
        """
        Return the report in the fields of a command.

        :raise CommandError: they are not those of a report.
        """
        size = fields.get("size")
        stage = fields.get("stage")
        if stage not in STAGES:
            raise CommandError("malformed", f'The field "stage" is one of {", ".join(STAGES)}.')
        if not isinstance(fields.get("outgoing"), bool):
            raise CommandError("malformed", 'The command needs a field "outgoing", which is true or false.')
        try:
            peer = PeerID.parse(_text(fields, "peer"))
        except PeerIDError as error:
            raise CommandError("bad-peer-id", str(error)) from None
        return cls(
            _text(fields, "program"),
            peer,
            fields["outgoing"],
            stage,
            _text(fields, "name"),
            number(fields, "items"),
            None if size is None else number(fields, "size"),
            number(fields, "position"),
        )


def number(fields: JSON, name: str) -> int:
    """
    Return a number of a command.

    :raise CommandError: it is not an integer from 0 to 2^63 - 1.
    """
    value: Any = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise CommandError("malformed", f'The command needs a field "{name}", which is a number.')
    return value


def _text(fields: JSON, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise CommandError(
            "malformed", f'The command needs a field "{name}", a text of 1 to {MAX_TEXT} characters.'
        )
    return value


class TransferReports:
    """
    What each program has reported last of each of its transfers.

    A program is any object that stands for it: its connection, or the node's own process.
    """

    def __init__(self) -> None:
        self._reports: dict[object, dict[int, TransferReport]] = {}

    @property
    def all(self) -> list[TransferReport]:
        """The transfers, those of one program in the order in which they began."""
        return [report for reports in self._reports.values() for report in reports.values()]

    def put(self, program: object, transfer: int, report: TransferReport | None) -> None:
        """
        Note how far a transfer is.

        :param transfer: the number that its program gives it.
        :param report: None: it is over.
        :raise CommandError: the program has too many.
        """
        reports = self._reports.get(program, {})
        if report is None:
            reports.pop(transfer, None)
            if not reports:
                self.forget(program)
            return
        if transfer not in reports and len(reports) >= MAX_REPORTED:
            raise CommandError("too-many", f"This program has reported {MAX_REPORTED} transfers already.")
        reports[transfer] = report
        self._reports[program] = reports

    def forget(self, program: object) -> None:
        """Forget the transfers of a program that has gone."""
        self._reports.pop(program, None)
