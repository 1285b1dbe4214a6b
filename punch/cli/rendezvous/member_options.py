"""The command-line options that say who may use the rendezvous, and what happens when that changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.internet import TimerService
from twisted.logger import Logger

from punch.amounts import number_of_bytes
from punch.cli.rendezvous.list_files import ListFile
from punch.identity import Identity, PeerID
from punch.rendezvous.directory.shared_members import SharedMembers
from punch.rendezvous.members.database import FILE_NAME, MemberDatabase
from punch.rendezvous.members.lists import ListFileError, read_list
from punch.rendezvous.members.membership import AdmitPolicy, Membership, MemberStoreError, parse_members
from punch.sanitize import quoted
from punch.turn.server.quotas import DAY
from punch.wire.fields import FieldError, sentence
from punch.wire.invitation import service_tag
from punch.wire.rendezvous_address import pin_of

if TYPE_CHECKING:
    # The help of the command, which needs the options alone, does not wait for it
    from punch.rendezvous.service import RendezvousService

MAX_CONTACT = 200
_LOOK = 1.0
"""Seconds between two looks whether a command of the operator has changed the members."""
_STORE_EVERY = 30
"""After so many looks, what the relay has carried is stored. A process that is killed loses no more."""
_CHECK_EVERY = 5
"""After so many looks, members that could not be used are tried again."""
_SILENT = 60
"""After a problem was logged, no other one is during so many looks."""

_log = Logger()

PARAMETERS: list[list[Any]] = [
    ["relay-for", None, "all", "Whom to relay for: all, or invited (and those of --members)."],
    [
        "relay-quota",
        None,
        None,
        "Bytes that are relayed for one peer in a day (UTC), such as 10G; an invitation can have another "
        "number. [default: any number]",
    ],
    ["relay-quota-per-address", None, None, "The same for all peers at one IPv4 address or IPv6 /64."],
    [
        "admit",
        None,
        "open",
        "Who may register: open (anyone), invited (punch rendezvous invite) or listed (in --members).",
    ],
    [
        "members",
        None,
        None,
        "File with the peer IDs that may register, one a line; read again on SIGHUP. For --admit listed, and "
        "besides invitations for --admit invited.",
    ],
    [
        "contact",
        None,
        "",
        "Whom to ask for an invitation, such as a name and a mail address: told to peers that are refused.",
    ],
]


class MemberOptionError(ValueError):
    """An option cannot be used; `str()` is a sentence for the user, `reason` a code."""

    def __init__(self, sentence: str, reason: str = "usage") -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class MemberOptions:
    """The values of the options."""

    policy: AdmitPolicy = AdmitPolicy.OPEN
    path: Path | None = None
    """The file of `--members`."""
    contact: str = ""
    relay_for_invited: bool = False
    quota_per_peer: int | None = None
    quota_per_address: int | None = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> MemberOptions:
        """
        Read and check the options.

        :raise MemberOptionError: an option is wrong, or two exclude each other.
        """
        try:
            policy = AdmitPolicy(options["admit"])
        except ValueError:
            raise MemberOptionError(
                f"--admit is open, invited or listed, not {quoted(options['admit'], 40)}."
            ) from None
        name, contact = options["members"], options["contact"].strip()
        if policy is AdmitPolicy.LISTED and name is None:
            raise MemberOptionError("--admit listed needs --members, the file with the peer IDs.")
        if options["relay-for"] not in ("all", "invited"):
            raise MemberOptionError(f"--relay-for is all or invited, not {quoted(options['relay-for'], 40)}.")
        relay_for_invited = options["relay-for"] == "invited"
        if policy is AdmitPolicy.OPEN and name is not None and not relay_for_invited:
            raise MemberOptionError("--members needs --admit listed, --admit invited or --relay-for invited.")
        try:
            sentence(contact)
        except FieldError as problem:
            raise MemberOptionError(f"--contact {problem}.") from problem
        if len(contact) > MAX_CONTACT:
            raise MemberOptionError(f"--contact has more than {MAX_CONTACT} characters.")
        # A daemon has another working directory.
        path = None if name is None else Path(os.path.abspath(name))
        if path is not None:
            try:
                read_members(path)
            except ListFileError as problem:
                raise MemberOptionError(str(problem), "members") from problem
        quotas = [_quota(options, option) for option in ("relay-quota", "relay-quota-per-address")]
        return cls(policy, path, contact, relay_for_invited, *quotas)


def _quota(options: Mapping[str, Any], option: str) -> int | None:
    try:
        return None if options[option] is None else number_of_bytes(options[option])
    except ValueError as problem:
        raise MemberOptionError(f"--{option} {problem}.") from problem


def read_members(path: Path) -> frozenset[PeerID]:
    """
    Read the file of `--members`.

    :raise ListFileError: it cannot be read, or it has an error; the sentence names the file.
    """
    text = read_list(path, "The list of members")
    try:
        return parse_members(text)
    except ListFileError as problem:
        raise ListFileError(f"The list of members {path}, {problem}.") from problem


class MemberWatch(TimerService):
    """
    Ends the registrations of peers that a command has revoked, within a second, and stores what the relay has
    carried.
    """

    def __init__(self, database: MemberDatabase, service: RendezvousService) -> None:
        super().__init__(_LOOK, self._look)  # type: ignore[no-untyped-call]
        self._database = database
        self._service = service
        self._looks = 0
        self._silent_until = 0
        """The number of looks after which problems are logged again."""
        self._changed = False
        """Whether there is a change that the service does not know yet…"""
        self._concerned: frozenset[PeerID] | None = frozenset()
        """…and peers of which that is so, as far as they are known; None: it may be any."""

    def startService(self) -> None:
        """Take what was stored today, and begin to look."""
        unix = time.time()
        with self._logged():
            day = int(unix) // DAY
            usage = {peer: used for _, peer, used in self._database.usage(day)}
            self._service.relay_service.restore_usage(unix, usage, self._database.relayed(day))
            self._service.relay_service.stored_bytes = self._stored_bytes
            # What changed before this start is known already.
            self._database.peers_changed()
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Any:
        """Store what was counted."""
        self._silent_until = 0
        self._store_usage()
        return super().stopService()  # type: ignore[no-untyped-call]

    def _stored_bytes(self, day: int, user: str) -> int:
        with self._logged():
            return self._database.relayed_for(day, user)
        return 0

    def _look(self) -> None:
        self._looks += 1
        if self._looks % _STORE_EVERY == 0:
            self._store_usage()
        with self._logged():
            self._changed = self._database.changed() or self._changed
            if self._changed:
                self._take_changes()
        with self._logged():
            if self._database.problem is not None and self._looks % _CHECK_EVERY == 0:
                self._database.check()

    def _take_changes(self) -> None:
        found = self._database.peers_changed()
        if found is None or self._concerned is None:
            self._concerned = None
            self._service.end_refused(list_changed=False)
        else:
            self._concerned |= found
            self._service.end_changed(self._concerned)
        self._changed, self._concerned = False, frozenset()

    def _store_usage(self) -> None:
        with self._logged():
            self._service.relay_service.store_usage(self._database.add_usage)

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """What fails now is tried again. The log says so once a minute, because strangers can cause it."""
        try:
            yield
        except MemberStoreError as problem:
            if self._looks >= self._silent_until:
                self._silent_until = self._looks + _SILENT
                _log.error("{problem}", problem=str(problem))


class Members:
    """
    Who may use the service of this process.

    :param directory: the state directory of the rendezvous.
    :raise MemberOptionError: the members can't be read.
    """

    def __init__(self, options: MemberOptions, identity: Identity, directory: Path) -> None:
        self._path = options.path
        try:
            self._database = MemberDatabase(directory / FILE_NAME)
            # Only to see that it can be used: a daemon will be another process.
            self._database.close()
            listed = frozenset() if self._path is None else read_members(self._path)
        except MemberStoreError as problem:
            raise MemberOptionError(str(problem), "state") from problem
        except ListFileError as problem:
            raise MemberOptionError(str(problem), "members") from problem
        self.membership = Membership(
            options.policy,
            self._database,
            service=service_tag(pin_of(identity.private_key.public_key())),
            listed=listed,
            contact=options.contact,
            relay_for_invited=options.relay_for_invited,
        )

    def check(self) -> str | None:
        """Why the members can't be used, for `/healthz`; None if they can."""
        return self._database.problem

    def list_file(self, service: RendezvousService) -> ListFile[frozenset[PeerID]] | None:
        """The file of `--members`, to be read again; None if there is none."""
        path = self._path
        if path is None:
            return None

        def use(listed: frozenset[PeerID]) -> int:
            self.membership.listed = listed
            return service.end_refused()

        return ListFile("members", "list of members", lambda: read_members(path), use)

    def watch(self, service: RendezvousService) -> MemberWatch:
        """What keeps the service and the kept members in step."""
        return MemberWatch(self._database, service)

    def shared(self, identity: Identity) -> SharedMembers:
        """What keeps the members in step with those of the service's other processes."""
        secret = identity.private_key.private_bytes_raw()
        return SharedMembers(self._database, secret=secret, random=os.urandom)
