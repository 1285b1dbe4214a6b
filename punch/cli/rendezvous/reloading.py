"""
What a running rendezvous reads again: on SIGHUP its certificate and the lists of `--deny` and `--members`,
and its members when a command of the operator has changed them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from cryptography import x509
from twisted.application.internet import TimerService
from twisted.logger import Logger

from punch.cli.rendezvous.options import MemberOptions, OptionError, read_members
from punch.identity import Identity, PeerID
from punch.rendezvous.control_sessions import ServiceReport
from punch.rendezvous.directory.shared_members import SharedMembers
from punch.rendezvous.members.database import FILE_NAME, MemberDatabase
from punch.rendezvous.members.lists import ListFileError
from punch.rendezvous.members.membership import Membership, MemberStoreError
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.tls import CertificateProblem, load_certificate
from punch.turn.server.quotas import DAY
from punch.wire.invitation import service_tag
from punch.wire.rendezvous_address import pin_of

EARLY = timedelta(days=7)
"""
How long before its end a certificate is a problem for `/healthz`. Clients of authorities renew it earlier.
"""
_LOOK = 1.0
"""Seconds between two checks whether a command of the operator has changed the members."""
_STORE_EVERY = 30
"""
After so many checks, the amount that the relay has carried is stored. A process that is killed loses at most
what was carried since.
"""
_CHECK_EVERY = 5
"""After so many checks, a database that could not be used is tried again."""
_SILENT = 60
"""For how many checks no other problem is logged after one was logged."""

L = TypeVar("L", bound=Sized)

_log = Logger()


class ListFile(Generic[L]):
    """
    Reads the file of a list again, and remembers what is wrong with it.

    :param event: the name of the event that reports that it was read (entries, ended). With `-failed`
        appended, it is the name of the event that reports that it could not be read (text).
    :param what: what the list is called in sentences.
    :param read: reads the file; raises `ListFileError`.
    :param use: has the service use a list from now on, and returns how many registrations that has ended.
    """

    def __init__(self, event: str, what: str, read: Callable[[], L], use: Callable[[L], int]) -> None:
        self._event = event
        self._what = what
        self._read = read
        self._use = use
        self._problem: str | None = None

    def read_again(self, report: ServiceReport, warn: Callable[[str], None]) -> None:
        """
        Use the present content of the file. If that has an error, the list before stays in use.

        :param warn: called with a sentence for the operator.
        """
        try:
            found = self._read()
        except ListFileError as problem:
            text = self._problem = f"{problem} The list that was read before stays."
            _log.error("{text}", text=text)
            report(f"{self._event}-failed", text=text)
            warn(text)
            return
        self._problem = None
        ended = self._use(found)
        _log.info(
            "{what} read: {entries} entries, {ended} peers ended",
            what=self._what,
            entries=len(found),
            ended=ended,
        )
        report(self._event, entries=len(found), ended=ended)

    def check(self) -> str | None:
        """What is wrong with the file, for `/healthz`."""
        return self._problem


class CertificateFiles:
    """
    Reads the files of a certificate and its key again, and remembers what is wrong with them.

    :param host: the name by which peers find the service, which the certificate must be for.
    :param first: the certificate that the service has started with.
    :param report: called with the events `certificate` (until) and `certificate-failed` (text).
    :param warn: called with a sentence for the operator.
    :param clock: returns the time as an aware datetime.
    """

    _log = Logger()

    def __init__(
        self,
        certificate: Path,
        key: Path,
        host: str | None,
        first: x509.Certificate,
        *,
        service: RendezvousService,
        report: ServiceReport,
        warn: Callable[[str], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._host = host
        self._ends = first.not_valid_after_utc
        self._service = service
        self._report = report
        self._warn = warn
        self._clock = clock
        self._problem: str | None = None

    def read_again(self) -> None:
        """Use the present content of the files. If it can't be used, the certificate before stays in use."""
        try:
            found = load_certificate(self._certificate, self._key, self._host, self._clock())
            self._service.use_certificate(found)
        except (CertificateProblem, ValueError) as problem:
            text = self._problem = f"{problem} The certificate that was read before stays in use."
            self._log.error("{text}", text=text)
            self._report("certificate-failed", text=text)
            self._warn(text)
            return
        self._problem = None
        self._ends = found.chain[0].not_valid_after_utc
        until = f"{self._ends:%Y-%m-%d}"
        self._log.info("certificate read, good until {until}", until=until)
        self._report("certificate", until=until)

    def check(self) -> str | None:
        """What is wrong with the certificate, for `/healthz`."""
        left = self._ends - self._clock()
        if left < timedelta():
            return f"The certificate ended on {self._ends:%Y-%m-%d}, and peers refuse it."
        if self._problem is not None:
            return self._problem
        return f"The certificate ends on {self._ends:%Y-%m-%d}." if left < EARLY else None


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
        """Whether there is a change that the service has not taken yet."""
        self._concerned: frozenset[PeerID] | None = frozenset()
        """The peers that such changes concern; None: they may concern any peer."""

    def startService(self) -> None:
        """Restore what was counted today, and begin to check."""
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
        """Store what was counted since the last time."""
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
            if self._database.problem is None and self._service.lists_pending:
                self._service.end_refused()

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
        """
        Log failures of the members' database, once a minute at most, because strangers can cause them. What
        failed is tried again later.
        """
        try:
            yield
        except MemberStoreError as problem:
            if self._looks >= self._silent_until:
                self._silent_until = self._looks + _SILENT
                _log.error("{problem}", problem=str(problem))


class Members:
    """
    The members of the service of this process: who may use it.

    :param directory: the state directory of the rendezvous.
    :raise OptionError: the members can't be read.
    """

    def __init__(self, options: MemberOptions, identity: Identity, directory: Path) -> None:
        self._path = options.path
        try:
            self._database = MemberDatabase(directory / FILE_NAME)
            # Only to see that it can be used: a daemon will be another process.
            self._database.close()
            listed = frozenset() if self._path is None else read_members(self._path)
        except MemberStoreError as problem:
            raise OptionError(str(problem), "state") from problem
        except ListFileError as problem:
            raise OptionError(str(problem), "members") from problem
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
        """Return a service that applies changes of the stored members to `service`."""
        return MemberWatch(self._database, service)

    def shared(self, identity: Identity) -> SharedMembers:
        """Return what exchanges changes of the members with the service's other processes."""
        secret = identity.private_key.private_bytes_raw()
        return SharedMembers(self._database, secret=secret, random=os.urandom)
