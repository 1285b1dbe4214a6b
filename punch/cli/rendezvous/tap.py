"""
`twistd -n punch-rendezvous`: the command line of the rendezvous.

`punch.cli.rendezvous.service` puts the service together. It is imported after the options are read.
"""

from __future__ import annotations

import punch.cli.startup  # noqa: F401 (before the imports that take long)
from punch.sanitize import quoted

# isort: split
import contextlib
import os
import re
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from ipaddress import IPv6Address
from pathlib import Path
from typing import NoReturn

from twisted.application.service import IService

from punch.cli import twistd
from punch.cli.rendezvous.options import (
    MEMBER_PARAMETERS,
    MemberOptions,
    OptionError,
    RelayOptions,
    whole_number,
)
from punch.cli.startup import end_without_collecting, loading
from punch.cli.twistd import CommandOptions as BaseOptions
from punch.extras import install_command_here
from punch.net.reactor import install_resolver, use_monotonic_time
from punch.rendezvous.config import (
    DEFAULT_REFLECTOR_PORT,
    AlternateAddress,
    RendezvousLimits,
    ServerCertificate,
)
from punch.rendezvous.directory.redis_address import RedisAddress, RedisAddressError
from punch.rendezvous.members.lists import DenyList, ListFileError, read_deny_list
from punch.rendezvous.monitoring.listener import MonitoringEndpoint, MonitoringEndpointError
from punch.rendezvous.operator_log import json_log
from punch.rendezvous.tcp.listen import EndpointError, check_kind
from punch.rendezvous.tcp.tls import CertificateProblem, load_certificate, names_of
from punch.sentences import sentence_of
from punch.state import RendezvousState, StateDirectory, own_state_dir
from punch.state_files import StateError
from punch.wire.address import PortError, canonical, parse_port
from punch.wire.control import MAX_REFLECTORS
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError

_LIMITS = {
    "connections": "connections at the same time, in all",
    "connections_per_address": "connections from one IPv4 address or IPv6 /64",
    "handshakes": "connections in all that have not finished their TLS handshake",
    "handshakes_per_address": "the same, from one IPv4 address or IPv6 /64; beyond, its oldest is closed",
    "registrations": "registered peers in all",
    "registrations_per_address": "registered peers at one IPv4 address or IPv6 /64",
    "introductions": "introductions going on, in all",
    "introductions_per_address": "the same, from one IPv4 address or IPv6 /64",
    "calls_per_caller": "calls of one peer that ring",
    "calls_per_callee": "calls of strangers that ring at one peer; beyond, it is busy for them",
    "calls_per_source": "of these, those from one IPv4 address or IPv6 /64",
    "stop_time": "seconds that introductions under way may take when the service stops",
    "message_rate": "messages a second that one peer may send for long",
    "message_burst": "messages that one peer may send at once",
    "relay_allocations": "relayed addresses in all",
    "relay_allocations_per_peer": "relayed addresses of one peer",
    "relay_allocations_per_address": "relayed addresses of all peers at one IPv4 address or IPv6 /64",
    "relay_rate": "bytes a second that are relayed for all peers together",
    "relay_rate_per_peer": "bytes a second that are relayed for one peer",
    "relay_rate_per_address": "bytes a second that are relayed for all peers at one IPv4 address or IPv6 /64",
    "relay_requests_rate": "requests a second from clients of the relay at one IPv4 address or IPv6 /64",
    "relay_requests_burst": "the same, at once",
    "relay_lifetime": "seconds that a relayed address lives without a refresh",
}
"""The limits that the command line can change, with what each of them counts."""


_COMMON = frozenset(
    ("admit", "certificate", "deny", "help", "help-all", "host", "key", "metrics", "state-dir")
)
"""The options that `--help` shows: most services need no other ones."""


class Options(BaseOptions):
    """The options of `twistd punch-rendezvous`."""

    plugin = "punch-rendezvous"
    files = frozenset(("certificate", "key", "turn-secret-file", "deny", "state-dir"))
    longdesc = (
        "Introduces peers behind NATs to each other. Works without options, and prints the address that "
        "peers use. Its operator's commands: punch rendezvous status, invite, invitations, peers, usage, "
        "revoke."
    )

    @property
    def rare(self) -> frozenset[str]:  # type: ignore[override]  # made of all options
        """The options that `--help` leaves out."""
        return frozenset(option.rstrip("=") for option in self.longOpt) - _COMMON

    optFlags = [
        ["json", None, "Print events as JSON, one object a line."],
    ]
    optParameters = [
        [
            "reflector-port",
            None,
            str(DEFAULT_REFLECTOR_PORT),
            "UDP port of the reflector on all IPv4 and IPv6 addresses, 0 for any free one; ADDRESS:PORT for "
            "one address only.",
        ],
        [
            "second-reflector-port",
            None,
            None,
            "UDP port from which punch netcheck has its NAT probed, 0 for any free one, none to do without. "
            "[default: the port after --reflector-port, none if that is taken]",
        ],
        [
            "host",
            None,
            None,
            "Name or IP address (or HOST:PORT, if a router maps the port) that peers will use. [default: the "
            "first name in --certificate, or this machine's address]",
        ],
        [
            "certificate",
            None,
            None,
            "PEM file with the certificate chain from an authority; peers then check the name. Read again on "
            "SIGHUP. [default: they check the pin of its own key]",
        ],
        ["key", None, None, "PEM file with the private key of --certificate."],
        ["relay", None, "on", "Whether to relay for peers that no direct path joins (TURN): on or off."],
        ["relay-ports", None, "49152-65535", "First and last UDP port of relayed addresses."],
        [
            "turn-secret-file",
            None,
            None,
            "File with the secret that is shared with the servers of --turn (coturn's static-auth-secret).",
        ],
        [
            "metrics",
            None,
            None,
            "TCP port on 127.0.0.1, or Twisted server endpoint, for operators: Prometheus metrics at "
            "/metrics, and /healthz. [default: none]",
        ],
        [
            "registry",
            None,
            None,
            "Redis by which several processes are one service: redis://host, rediss://user:password@host "
            "(TLS), or redis+sentinel://host1,host2/NAME. [default: PUNCH_REGISTRY of the environment, else "
            "this process is the whole service]",
        ],
        ["log-addresses", None, "cut", "How the log names addresses: cut (to a /24 or /48) or full."],
        [
            "log-peers",
            None,
            "cut",
            "How the log and stdout name peers: cut (the first 8 characters of the ID, and no name) or full.",
        ],
        ["log-format", None, "text", "The form of the log: text, or json (one object a line)."],
        [
            "deny",
            None,
            None,
            "File with peer IDs and networks that are refused, one a line; read again on SIGHUP. "
            "[default: nobody is refused]",
        ],
        *MEMBER_PARAMETERS,
        [
            "state-dir",
            None,
            None,
            "Directory for the key, the log and the address. [default: the platform's own place, such as "
            "~/.local/state/punch]",
        ],
        *(
            [option, None, int(getattr(RendezvousLimits(), name)), f"Limit: {meaning}.", whole_number(option)]
            for name, meaning in _LIMITS.items()
            for option in [name.replace("_", "-")]
        ),
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["control"] = []
        self["relay-address"] = []
        self["relay-allow"] = []
        self["turn"] = []
        self["alternate-address"] = []
        self.state: RendezvousState | None = None
        self.certificate: ServerCertificate | None = None
        self.host: str | None = None
        self.public_port: int | None = None
        self.reflector: tuple[str | None, int] = (None, DEFAULT_REFLECTOR_PORT)
        self.second_reflector: tuple[bool, int | None] = (True, None)
        self.alternates: list[AlternateAddress] = []
        self.relay = RelayOptions()
        self.deny = DenyList()
        self.metrics: MonitoringEndpoint | None = None
        self.members = MemberOptions()
        self.registry: RedisAddress | None = None
        self.logs_to_stdout = False

    def opt_control(self, endpoint: str) -> None:
        """Twisted server endpoint (a stream transport) for control connections, such as \
tcp:7001:interface=192.0.2.1; may be given several times. ssl: is refused, because the service does TLS \
itself. [default: TCP port 7001 on all IPv4 and IPv6 addresses]"""
        self["control"].append(endpoint)

    def opt_reflector(self, where: str) -> None:
        """The same as --reflector-port."""
        self["reflector-port"] = where

    def opt_alternate_address(self, address: str) -> None:
        """Another IP address of this machine that peers reach: with two of a family, punch netcheck can \
tell all that a NAT does. Behind a 1:1 NAT (clouds) PUBLIC/OWN. May be given several times."""
        self["alternate-address"].append(address)

    def opt_relay_address(self, address: str) -> None:
        """IP address that peers see instead of this machine's own, if a 1:1 NAT is in front of it (clouds); \
may be given once for each address family."""
        self["relay-address"].append(address)

    def opt_relay_allow(self, network: str) -> None:
        """Network, such as 10.0.0.0/8, that may be relayed to although it is private, for tests; may be \
given several times."""
        self["relay-allow"].append(network)

    def opt_turn(self, server: str) -> None:
        """TURN server elsewhere that peers are told of, such as turn:host:3478?transport=udp or \
turns:host:5349; needs --turn-secret-file, and may be given several times. With --relay off it stands in for \
the relay of this service, else beside it."""
        self["turn"].append(server)

    def postOptions(self) -> None:
        """Check everything that can be checked before the start, and prepare the state directory."""
        for endpoint in self["control"]:
            try:
                check_kind(endpoint)
            except EndpointError as problem:
                self._fail(str(problem))
        self.reflector = self._reflector(self["reflector-port"])
        self.second_reflector = self._second_reflector(self["second-reflector-port"])
        self.alternates = [self._alternate(text) for text in self["alternate-address"]]
        if len(self.alternates) > MAX_REFLECTORS:
            self._fail(f"--alternate-address can be given {MAX_REFLECTORS} times at most.")
        self._read_host()
        self._read_certificate()
        try:
            self.relay = RelayOptions.read(self)
        except OptionError as problem:
            self._fail(str(problem), problem.reason)
        if self["metrics"] is not None:
            try:
                self.metrics = MonitoringEndpoint.parse(self["metrics"])
            except MonitoringEndpointError as problem:
                self._fail(str(problem))
            if find_spec("prometheus_client") is None:
                command = install_command_here("metrics")
                self._fail(f"--metrics needs the package prometheus_client; install it with {command}.")
        self._read_log_options()
        given = self["registry"]
        if given is None:
            given = os.environ.get("PUNCH_REGISTRY") or None
        if given is not None:
            try:
                self.registry = RedisAddress.parse(given)
            except RedisAddressError as problem:
                self._fail(f"--registry: {problem}")
            if find_spec("txredisapi") is None:
                command = install_command_here("redis")
                self._fail(f"--registry needs the package txredisapi; install it with {command}.")
        if self["deny"] is not None:
            # A daemon has another working directory.
            self["deny"] = os.path.abspath(self["deny"])
            try:
                self.deny = read_deny_list(Path(self["deny"]))
            except ListFileError as problem:
                self._fail(str(problem), "deny-list")
        try:
            self.members = MemberOptions.read(self)
        except OptionError as problem:
            self._fail(str(problem), problem.reason)
        root = self["state-dir"]
        if root == "":
            self._fail("--state-dir is empty; name a directory.")
        try:
            self.state = StateDirectory(Path(root) if root else own_state_dir(os.environ)).rendezvous
            self.state.prepare()
        except StateError as problem:
            self._fail(sentence_of(problem), "state")
        observer = None
        if self["log-format"] == "json":
            observer = partial(
                json_log,
                full_addresses=self["log-addresses"] == "full",
                full_peers=self["log-peers"] == "full",
            )
        self.logs_to_stdout = twistd.use_own_files(
            self, self.state.directory, self.state.log_path, self._fail, observer
        )

    @property
    def limits(self) -> RendezvousLimits:
        """The limits, as changed on the command line."""
        return replace(RendezvousLimits(), **{name: self[name.replace("_", "-")] for name in _LIMITS})

    def _fail(self, sentence: str, reason: str = "usage") -> NoReturn:
        twistd.fail(self.command, sentence, reason=reason, as_json=bool(self["json"]))

    def _read_log_options(self) -> None:
        if self["log-format"] not in ("text", "json"):
            self._fail(f"--log-format is text or json, not {quoted(self['log-format'], 40)}.")
        for name in ("log-addresses", "log-peers"):
            if self[name] not in ("cut", "full"):
                self._fail(f"--{name} is cut or full, not {quoted(self[name], 40)}.")

    def _reflector(self, text: str) -> tuple[str | None, int]:
        host, colon, port = text.rpartition(":")
        try:
            number = parse_port(port, 0)
            address = canonical(host.removeprefix("[").removesuffix("]") if colon else "0.0.0.0", number)
        except ValueError:
            self._fail(
                f"--reflector-port {quoted(text, 100)} is neither a UDP port (0 to 65535) nor an IP address "
                "and a port; write something like 3478 or 192.0.2.1:3478."
            )
        return (address.host if colon else None), address.port

    def _second_reflector(self, text: str | None) -> tuple[bool, int | None]:
        if text is None or text == "none":
            return text is None, None
        try:
            port = parse_port(text, 0)
        except PortError:
            self._fail(
                f"--second-reflector-port {quoted(text, 100)} is neither a UDP port (0 to 65535) nor none; "
                "write something like 3479."
            )
        if port == self.reflector[1] != 0:
            self._fail("--second-reflector-port is the port of --reflector-port; choose another.")
        return True, port

    def _alternate(self, text: str) -> AlternateAddress:
        shown, slash, own = text.partition("/")
        try:
            pair = AlternateAddress(canonical(shown, 0).host, canonical(own if slash else shown, 0).host)
            if (":" in pair.shown) != (":" in pair.own) or "%" in text:
                raise ValueError
        except ValueError:
            self._fail(
                f"--alternate-address {quoted(text, 100)} is neither an IP address nor PUBLIC/OWN, two of "
                "one family; write something like 192.0.2.2 or 192.0.2.2/10.0.0.2."
            )
        return pair

    def _read_host(self) -> None:
        if self["host"] is None:
            return
        text = self["host"]
        with contextlib.suppress(ValueError):
            text = f"[{IPv6Address(text)}]"
        try:
            address = RendezvousAddress.parse(text)
        except RendezvousAddressError as problem:
            self._fail(f"--host: {sentence_of(problem)}")
        if address.pin is not None:
            self._fail("--host takes a name or IP address, without a pin; the service adds its own.")
        self.host = address.host
        if re.fullmatch(r"(punch://)?(\[[^]]*\]|[^:\[\]]+):[0-9]+/?", text.strip()):
            self.public_port = address.port

    def _read_certificate(self) -> None:
        if (self["certificate"] is None) != (self["key"] is None):
            self._fail("--certificate and --key belong together; give both or neither.")
        if self["certificate"] is None:
            return
        # A daemon has another working directory.
        certificate = self["certificate"] = os.path.abspath(self["certificate"])
        key = self["key"] = os.path.abspath(self["key"])
        now = datetime.now(timezone.utc)
        try:
            self.certificate = load_certificate(Path(certificate), Path(key), self.host, now)
        except CertificateProblem as problem:
            self._fail(str(problem), "certificate")
        if self.host is None:
            names = names_of(self.certificate.chain[0])
            if not names:
                self._fail("The certificate names no single host; say with --host which one peers will use.")
            self.host = names[0]


def makeService(options: Options) -> IService:
    """Return the service of this process, for `twistd`."""
    end_without_collecting()
    with loading():
        from twisted.internet import reactor

        from punch.cli.rendezvous.service import make_service

    use_monotonic_time(reactor)
    install_resolver(reactor)
    return make_service(options, reactor)
