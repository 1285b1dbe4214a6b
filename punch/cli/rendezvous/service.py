"""
What a running rendezvous is put together from, what it prints of its events, and the certificate of
`--certificate` and `--key`, which it reads again on SIGHUP.

This is a composition root: the one place where the service, its members, its directory, its monitoring, the
state directory and the reactor meet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from twisted.application.service import IService, MultiService
from twisted.logger import Logger

from punch.cli import twistd
from punch.cli.rendezvous.list_files import ListFile
from punch.cli.rendezvous.member_options import MemberOptionError, Members
from punch.cli.rendezvous.memory import MemoryReturn
from punch.files import replace_private
from punch.net.interfaces import source_address
from punch.rendezvous.config import RendezvousConfig, ServerCertificate
from punch.rendezvous.control.sessions import ServiceReport
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.members.lists import read_deny_list
from punch.rendezvous.monitoring.listener import MonitoringEndpointError
from punch.rendezvous.monitoring.service import MonitoredService
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.listen import EndpointError
from punch.rendezvous.tcp.tls import CertificateProblem, load_certificate
from punch.state import RendezvousState, StateError
from punch.wire.rendezvous_address import DEFAULT_PORT

if TYPE_CHECKING:
    from punch.cli.rendezvous.tap import Options


EARLY = timedelta(days=7)
"""How long before its end a certificate is a reason for `/healthz`; authorities' clients renew it earlier."""

_log = Logger()


class CertificateFiles:
    """
    Reads the files again, and knows what is wrong with them.

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
        """Use what the files hold now. If they can't be used, the certificate before stays."""
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


class Announcer:
    """
    Prints the events of the service, as text or JSON.

    :param command: what the user calls this program by.
    :param out: writes to stdout, as `error` does to stderr. Both are closed by `close`.
    :param end: ends the process with an exit status.
    :param host_given: whether the user has given the name by which peers find the service.
    :param full_peers: whether text has IDs in full, and names at all.
    :param log_on_stdout: whether the log goes to stdout, too. Then only the log tells who registers.
    :param log_as_json: whether the log is JSON. If it goes to stdout, it is all that is written, unless the
        service fails.
    """

    service: RendezvousService

    def __init__(
        self,
        state: RendezvousState,
        *,
        command: str,
        out: twistd.OutputWriter,
        error: twistd.OutputWriter,
        end: Callable[[int], object],
        as_json: bool,
        host_given: bool,
        full_peers: bool = False,
        log_on_stdout: bool = False,
        log_as_json: bool = False,
    ) -> None:
        self._state = state
        self._command = command
        self._out = out
        self._error = error
        self._end = end
        self._json = as_json
        self._host_given = host_given
        self._full_peers = full_peers
        self._log_on_stdout = log_on_stdout
        self._only_log = log_on_stdout and log_as_json and not as_json
        self._start = time.monotonic()

    def __call__(self, event: str, **fields: object) -> None:
        """Print one event of the service."""
        if event == "listening":
            self._leave_address(str(fields["address"]))
        elif event == "certificate" and self.service.address is not None:
            # Peers on this machine check the key of the certificate.
            self._leave_address(str(self.service.address))
        if self._json:
            elapsed = round(time.monotonic() - self._start, 6)
            self._out.event({"event": event, "time": elapsed, **fields})
        elif not self._only_log:
            self._print(event, fields)
        if event == "failed":
            self._write_stderr(str(fields["text"]))
            self._end(1)

    def registry(self, problem: str | None) -> None:
        """Tell that the Redis of --registry works, or why it does not."""
        if problem is None:
            self("registry")
        else:
            self("registry-failed", text=problem)
            self.write_stderr(problem)

    def write_stderr(self, text: str) -> None:
        """Write a sentence that is in the log, too, to stderr."""
        if not self._only_log:
            self._write_stderr(text)

    def _write_stderr(self, text: str) -> None:
        self._error.line(f"{self._command}: {text}")

    def close(self) -> None:
        """Close the outputs after the last event."""
        self._out.close()
        self._error.close()

    def _print(self, event: str, fields: dict[str, object]) -> None:
        # Names were checked when they were received: they contain no control characters.
        if event == "listening":
            self._out.line("The rendezvous is ready. Peers find it at this address:")
            self._out.line("")
            self._out.line(f"    {fields['address']}")
            self._out.line("")
            if not self._host_given:
                self._out.line("If they reach this machine by another name or address, give it with --host.")
        elif event in ("deny-list", "members"):
            what = "deny list" if event == "deny-list" else "list of members"
            self._out.line(
                f"The {what} was read again: {fields['entries']} entries, {fields['ended']} peers ended."
            )
        elif event == "registry":
            self._out.line("Redis works: peers of all processes of the service can call each other.")
        elif event == "certificate":
            self._out.line(f"The certificate was read again; it is good until {fields['until']}.")
        elif self._log_on_stdout:
            pass
        elif event == "registered" and self._full_peers:
            self._out.line(f"{fields['name']} registered ({fields['peer']})")
        elif event == "registered":
            self._out.line(f"{str(fields['peer'])[:8]}… registered")
        elif event == "gone":
            self._out.line(f"{str(fields['peer'])[:8]}… is gone ({fields['reason']})")

    def _leave_address(self, address: str) -> None:
        try:
            # Peers of the same user on this machine find the service by this file.
            self._state.write_address(str(self.service.local_address))
            replace_private(self._state.directory / "public-address", address.encode() + b"\n")
        except (StateError, OSError) as problem:
            _log.error("The address can't be left in the state directory: {problem}", problem=str(problem))
            self.write_stderr(
                f"The address can't be left in {self._state.directory}, so peers on this machine need "
                "--rendezvous; make that directory writable and start again."
            )


def machine_addresses() -> list[str]:
    """The addresses from which this machine reaches others, at most one of each family. Sends nothing."""
    return [own for anyone in ("192.0.2.1", "2001:db8::1") if (own := source_address(anyone)) is not None]


def primary_address() -> str:
    """The address from which this machine reaches others; loopback if it reaches none. Sends nothing."""
    return next(iter(machine_addresses()), "127.0.0.1")


def make_service(options: Options, reactor: Any) -> IService:
    """The service of this process."""
    state = options.state
    assert state is not None, "the options are not parsed"
    as_json = bool(options["json"])
    limits = options.limits.within_descriptors(twistd.raise_descriptor_limit, relay=options.relay.enabled)
    reduced = limits.reduced_from(options.limits)
    if reduced is not None:
        _log.warn("{text}", text=reduced)
    try:
        identity = state.identity()
        kept = state.certificate(identity, [options.host] if options.host else [], datetime.now(timezone.utc))
    except StateError as problem:
        twistd.fail(options.command, str(problem), reason="state", as_json=as_json)
    try:
        members = Members(options.members, identity, state.directory)
    except MemberOptionError as member_problem:
        twistd.fail(options.command, str(member_problem), reason=member_problem.reason, as_json=as_json)
    host, port = options.reflector
    config = RendezvousConfig(
        identity=identity,
        control=options["control"] or None,
        port=DEFAULT_PORT,
        reflector_port=port,
        reflector_host=host,
        second_reflector=options.second_reflector[0],
        second_reflector_port=options.second_reflector[1],
        alternate_addresses=options.alternates,
        host=options.host,
        public_port=options.public_port,
        primary_address=primary_address(),
        certificate=ServerCertificate((x509.load_pem_x509_certificate(kept),), identity.private_key),
        authority_certificate=options.certificate,
        relay=options.relay.enabled,
        relay_addresses=options.relay.addresses,
        relay_allow=options.relay.allow,
        relay_ports=options.relay.ports,
        machine_addresses=machine_addresses(),
        relay_quota_per_peer=options.members.quota_per_peer,
        relay_quota_per_address=options.members.quota_per_address,
        turn=options.relay.turn,
        turn_secret=options.relay.secret,
        log_full_addresses=options["log-addresses"] == "full",
        log_full_peers=options["log-peers"] == "full",
        deny=options.deny,
        limits=limits,
    )
    announcer = Announcer(
        state,
        command=options.command,
        out=twistd.OutputWriter(1),
        error=twistd.OutputWriter(2),
        end=partial(twistd.end, reactor),
        as_json=as_json,
        host_given=options["host"] is not None,
        full_peers=options["log-peers"] == "full",
        log_on_stdout=options.logs_to_stdout,
        log_as_json=options["log-format"] == "json",
    )
    directory = None
    if options.registry is not None:
        directory = RedisDirectory(
            options.registry,
            secret=identity.private_key.private_bytes_raw(),
            reactor=reactor,
            monotonic=time.monotonic,
            wall=time.time,
            random=os.urandom,
            report=announcer.registry,
        )
        directory.share(members.shared(identity))
    try:
        service = RendezvousService(
            config,
            reactor=reactor,
            monotonic=time.monotonic,
            random=os.urandom,
            report=announcer,
            wall=time.time,
            cpu=time.thread_time,
            membership=members.membership,
            directory=directory,
        )
    except EndpointError as problem:
        twistd.fail(options.command, str(problem), as_json=as_json)
    announcer.service = service
    try:
        monitored = MonitoredService(
            service, options.metrics, reactor=reactor, report=announcer, directory=state.directory
        )
    except MonitoringEndpointError as problem:
        twistd.fail(options.command, str(problem), as_json=as_json)
    reload: list[Callable[[], None]] = []
    health = service.health
    health.add_check("members", members.check)
    lists: dict[str, ListFile[Any] | None] = {}
    deny = options["deny"]
    if deny is not None:
        lists["deny-list"] = ListFile(
            "deny-list", "deny list", lambda: read_deny_list(Path(deny)), service.deny
        )
    lists["members-list"] = members.list_file(service)
    for name, file in lists.items():
        if file is not None:
            reload.append(partial(file.read_again, announcer, announcer.write_stderr))
            health.add_check(name, file.check)
    if options.certificate is not None:
        files = CertificateFiles(
            Path(options["certificate"]),
            Path(options["key"]),
            options.host,
            options.certificate.chain[0],
            service=service,
            report=announcer,
            warn=announcer.write_stderr,
            clock=partial(datetime.now, timezone.utc),
        )
        reload.append(files.read_again)
        health.add_check("certificate", files.check)

    def read_again() -> None:
        for read in reload:
            read()
        if not reload:
            text = "There is nothing to read again: neither --deny nor --members nor --certificate was given."
            _log.info("{text}", text=text)
            announcer.write_stderr(text)

    twistd.end_on_signals(
        reactor,
        read_again,
        hangup_of_terminal=not reload,
        final_line="" if as_json else "The rendezvous has stopped.",
    )
    reactor.addSystemEventTrigger("after", "shutdown", announcer.close)
    process = MultiService()  # type: ignore[no-untyped-call]
    monitored.setServiceParent(process)  # type: ignore[no-untyped-call]
    members.watch(service).setServiceParent(process)  # type: ignore[no-untyped-call]
    memory = MemoryReturn(
        reactor,
        lambda: service.open_connections,
        lambda: service.ended_connections + service.ended_allocations,
    )
    memory.setServiceParent(process)  # type: ignore[no-untyped-call]
    return process
