"""
What a running rendezvous is put together from.

This is a composition root: the one place where the service, its members, its directory, its monitoring, the
state directory and the reactor meet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from twisted.application.service import IService, MultiService

from punch.cli import twistd
from punch.cli.certificate_files import CertificateFiles
from punch.cli.member_options import MemberOptionError, Members
from punch.cli.memory import MemoryReturn
from punch.cli.rendezvous_announcer import Announcer
from punch.net.interfaces import source_address
from punch.rendezvous.config import RendezvousConfig, ServerCertificate
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.monitoring.listener import MonitoringEndpointError
from punch.rendezvous.monitoring.service import MonitoredService
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.listen import EndpointError
from punch.state import StateError
from punch.wire.rendezvous_address import DEFAULT_PORT

if TYPE_CHECKING:
    from punch.cli.rendezvous_tap import Options


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
    deny = options["deny"]
    if deny is not None:
        reload.append(lambda: announcer.read_deny_list(Path(deny)))
    if members.has_list:
        reload.append(lambda: members.read_again(service, announcer, announcer.write_stderr))
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
        service.health.checks.append(files.check)

    def read_again() -> None:
        for read in reload:
            read()

    twistd.end_on_signals(
        reactor,
        read_again if reload else None,
        final_line="" if as_json else "The rendezvous has stopped.",
    )
    reactor.addSystemEventTrigger("after", "shutdown", announcer.close)
    process = MultiService()  # type: ignore[no-untyped-call]
    monitored.setServiceParent(process)  # type: ignore[no-untyped-call]
    members.watch(service).setServiceParent(process)  # type: ignore[no-untyped-call]
    memory = MemoryReturn(reactor, lambda: service.open_connections, lambda: service.ended_connections)
    memory.setServiceParent(process)  # type: ignore[no-untyped-call]
    return process
