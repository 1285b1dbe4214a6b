"""
Puts a running rendezvous together, prints its events, and tunes the garbage collector for many connections.

This is a composition root: the one place where the service, its members, its directory, its monitoring, the
state directory and the reactor meet.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from twisted.application.service import IService, MultiService, Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from punch.cli import twistd
from punch.cli.rendezvous.options import OptionError
from punch.cli.rendezvous.reloading import CertificateFiles, ListFile, Members
from punch.cli.startup import raise_descriptor_limit
from punch.files import replace_private
from punch.net.driver import Timer
from punch.net.interfaces import source_address
from punch.rendezvous.config import RendezvousConfig, ServerCertificate
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.members.lists import read_deny_list
from punch.rendezvous.monitoring.listener import MonitoringEndpointError
from punch.rendezvous.monitoring.service import MonitoredService
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.listen import EndpointError
from punch.sentences import sentence_of
from punch.state import RendezvousState
from punch.state_files import StateError
from punch.wire.rendezvous_address import DEFAULT_PORT

if TYPE_CHECKING:
    from punch.cli.rendezvous.tap import Options


_log = Logger()


class Announcer:
    """
    Prints the events of the service, as text or JSON.

    :param command: the command by which the user has started this program.
    :param out: writes to stdout, as `error` does to stderr. Both are closed by `close`.
    :param end: ends the process with an exit status.
    :param host_given: whether the user has given the name by which peers find the service.
    :param full_peers: whether text contains whole IDs, and names.
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
        """Report that the Redis of --registry works, or why it does not."""
        if problem is None:
            self("registry")
        else:
            self("registry-failed", text=problem)
            self.write_stderr(problem)

    def write_stderr(self, text: str) -> None:
        """Write to stderr a sentence that is in the log as well."""
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
            text = sentence_of(problem) if isinstance(problem, StateError) else str(problem)
            _log.error("The address can't be left in the state directory: {problem}", problem=text)
            self.write_stderr(
                f"The address can't be left in {self._state.directory}, so peers on this machine need "
                "--rendezvous; make that directory writable and start again."
            )


def machine_addresses() -> list[str]:
    """
    Return the addresses from which this machine reaches others, at most one of each family. Nothing is sent.
    """
    return [own for anyone in ("192.0.2.1", "2001:db8::1") if (own := source_address(anyone)) is not None]


def primary_address() -> str:
    """
    Return the address from which this machine reaches others; loopback if it reaches none. Nothing is sent.
    """
    return next(iter(machine_addresses()), "127.0.0.1")


def make_service(options: Options, reactor: Any) -> IService:
    """Return the service of this process."""
    state = options.state
    assert state is not None, "the options are not parsed"
    as_json = bool(options["json"])
    limits = options.limits.within_descriptors(raise_descriptor_limit, relay=options.relay.enabled)
    reduced = limits.reduced_from(options.limits)
    if reduced is not None:
        _log.warn("{text}", text=reduced)
    try:
        identity = state.identity()
        kept = state.certificate(identity, [options.host] if options.host else [], datetime.now(timezone.utc))
    except StateError as problem:
        twistd.fail(options.command, sentence_of(problem), reason="state", as_json=as_json)
    try:
        members = Members(options.members, identity, state.directory)
    except OptionError as member_problem:
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


# -- the memory of a process with many connections --

YOUNG = 2_500
"""The threshold of the youngest generation: the collector looks at new objects when there are so many."""
MIDDLE = 0
"""
The threshold of the middle generation. With 0, every second time the collector also looks again at the
objects that were left the time before, so at 5,000 objects at most.
"""
NEVER = 1_000_000
PERIOD = 3.0
"""Seconds between two checks of the number of connections."""
FEWEST = 200
"""If fewer connections and allocations have ended, nothing is done until `LONG` is over."""
MANY = 8
"""
A check whether ended connections and allocations have left something in memory is due when the number of
those that have ended is so many times the number of open connections.
"""
GROWN = 1.5
"""
They have left something if the blocks of memory that Python uses for each connection are so many times the
fewest that it has used. Then the collector looks at all objects, during which nobody is served: 0.1 s with
15,000 peers.
"""
LARGE = 1000
"""With fewer connections, the collector looks at all objects without that check: some milliseconds."""
LONG = 4 * 3600.0
"""The collector looks at all objects after so many seconds in any case."""


def tune_collector() -> None:
    """
    Set the collector up for a server. What exists now, modules and classes, exists until the end, so it is
    not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, NEVER)


def give_back() -> None:
    """Give free memory back to the system."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class MemoryReturn(Service):
    """
    Tunes the garbage collector of a process with many connections, and gives memory back to the system.

    By default the collector looks at every object of the process each time that their number has grown by a
    quarter. With 15,000 peers that takes 0.1 s, in which nobody is served, and it finds almost nothing,
    because connections and allocations that end leave no cycles (`punch/test/rendezvous/test_garbage.py`). So
    it is set to look at new objects only, some thousand at a time. It looks at all objects when many more
    connections and allocations have ended than connections are open (`MANY`) and the memory for each
    connection has grown (`GROWN`), and in any case after hours (`LONG`), so that cycles that are left after
    all can't fill the memory.

    The C library keeps freed memory for later, except at the end of its heap, so after a flood of connections
    it may keep all of it. `malloc_trim` (glibc) gives it back, in some milliseconds, when as many connections
    and allocations have ended as connections are open.

    :param connections: returns how many connections are open.
    :param ended: returns how many connections and allocations have ended since the start, also if others took
        their place.
    :param blocks: returns how many blocks of memory Python uses.
    :param begin: called at the start.
    :param collect: called to free unused objects that refer to each other.
    :param give_back: called when memory may be free.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connections: Callable[[], int],
        ended: Callable[[], int],
        *,
        blocks: Callable[[], int] = sys.getallocatedblocks,
        begin: Callable[[], None] = tune_collector,
        collect: Callable[[], object] = gc.collect,
        give_back: Callable[[], None] = give_back,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._ended = ended
        self._blocks = blocks
        self._begin = begin
        self._collect = collect
        self._give_back = give_back
        self._given_back_at = self._collected_at = 0
        """How many connections and allocations had ended then."""
        self._least = math.inf
        """The fewest blocks for each connection so far, as if there were `FEWEST` connections more."""
        self._last = 0.0
        self._timer = Timer(clock)

    def startService(self) -> None:
        """Tune the collector, and begin to count."""
        super().startService()  # type: ignore[no-untyped-call]
        self._begin()
        self._last = self._clock.seconds()
        self._timer.start(PERIOD, self._look)

    def stopService(self) -> None:
        """Stop counting."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._timer.cancel()

    def _look(self) -> None:
        self._timer.start(PERIOD, self._look)
        now, ended = self._clock.seconds(), self._ended()
        enough = max(FEWEST, self._connections())
        each = self._blocks() / (self._connections() + FEWEST)
        self._least = min(self._least, each)
        collects = now >= self._last + LONG
        if ended - self._collected_at >= MANY * enough:
            self._collected_at = ended
            collects = collects or each >= GROWN * self._least or self._connections() < LARGE
        if collects:
            self._last = now
            self._collect()
        if collects or ended - self._given_back_at >= enough:
            self._given_back_at = ended
            self._give_back()
