"""
`punch netcheck`: what the networks between here and a rendezvous do, in words or as JSON.

A composition root: here reactor, sockets, state directory and output meet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from twisted.python.failure import Failure

from punch.cli import twistd
from punch.cli.parser import PROXY_HELP, Parser
from punch.cli.usage import show, write_stderr
from punch.local.process import gateways_by
from punch.local.rendezvous import (
    BadProxy,
    NoRendezvous,
    choose_proxy,
    choose_rendezvous,
    proxy_sentence,
    rendezvous_sentence,
)
from punch.natcheck.report import NetcheckReport
from punch.net.interfaces import local_addresses, source_address
from punch.net.reactor import install_resolver, use_monotonic_time
from punch.net.srv import ServiceResolver
from punch.net.udp.sockets import open_socket
from punch.net.upnp import upnp_of_machine
from punch.node.netcheck import NetcheckRun
from punch.node.policies import PortMappingPolicy, RelayPolicy, SprayPolicy
from punch.sentences import sentence_of
from punch.state import StateDirectory, login_name, own_state_dir
from punch.state_files import StateError
from punch.ui.json.events import netcheck_fields
from punch.ui.text.netcheck import problem_of, text

PROGRAM = "punch netcheck"

SHORTEST_SEARCH, LONGEST_SEARCH = 10.0, 600.0
"""The least and the most seconds that the search for a mapping's lifetime may be given."""
USUAL_SEARCH = 180.0


def _seconds(written: str) -> float:
    seconds = float(written)
    if not SHORTEST_SEARCH <= seconds <= LONGEST_SEARCH:
        raise ValueError
    return seconds


_seconds.__name__ = f"number of seconds from {SHORTEST_SEARCH:g} to {LONGEST_SEARCH:g}"


def _parser(root: Path, login: str) -> Parser:
    parser = Parser(
        PROGRAM,
        description="Find out what this network does to links: whether UDP works, what the NAT does, how the "
        "rendezvous is reached, and to whom links can be direct. Takes a few seconds.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts; see docs/json.md")
    parser.add_argument(
        "--rendezvous",
        metavar="ADDRESS",
        action="append",
        help="punch://host:port/PIN, as the rendezvous printed it; several of one service with "
        "commas, or in several options [default: that of PUNCH_RENDEZVOUS, else the last one, else your own "
        "on this machine]",
    )
    parser.add_rare_argument(
        "--name",
        default=login,
        help="the identity whose last rendezvous is used, and whose membership counts [default: %(default)s]",
    )
    parser.add_rare_argument(
        "--state-dir", default=str(root), metavar="DIR", help="where that is kept [default: %(default)s]"
    )
    parser.add_rare_argument("--proxy", metavar="URL", help=PROXY_HELP)
    parser.add_rare_argument(
        "--port-mapping",
        choices=[policy.value for policy in PortMappingPolicy],
        default=PortMappingPolicy.AUTO.value,
        help="whether your router is asked for a port, which is given back at once [default: %(default)s]",
    )
    parser.add_rare_argument(
        "--relay",
        choices=[policy.value for policy in RelayPolicy],
        default=RelayPolicy.AUTO.value,
        help="say what links would be like if you used this option with punch chat and other commands "
        "[default: %(default)s]",
    )
    parser.add_rare_argument(
        "--spray",
        choices=[policy.value for policy in SprayPolicy],
        default=SprayPolicy.AUTO.value,
        help="the same for --spray [default: %(default)s]",
    )
    parser.add_argument(
        "--lifetime",
        type=_seconds,
        nargs="?",
        const=USUAL_SEARCH,
        metavar="SECONDS",
        help="also find out for how long mappings are kept, in at most so many seconds "
        f"[default: no; without a number {USUAL_SEARCH:g}]",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """
    Run `punch netcheck`.

    :return: the exit status: 0, or 1 if the rendezvous can't be reached.
    """
    login = login_name(os.environ)
    options = _parser(own_state_dir(os.environ), login).parse(arguments)
    try:
        state = StateDirectory(Path(options.state_dir))
        given = ",".join(options.rendezvous) if options.rendezvous else None
        peer = state.peer(options.name)
        member = peer.identity() if peer.has_identity else None
        rendezvous = choose_rendezvous(given, state, options.name, os.environ)
        proxy = choose_proxy(options.proxy, os.environ)
    except StateError as problem:
        twistd.fail(PROGRAM, sentence_of(problem), reason="state", as_json=options.json)
    except NoRendezvous as problem:
        twistd.fail(PROGRAM, rendezvous_sentence(problem), reason=problem.reason, as_json=options.json)
    except BadProxy as problem:
        twistd.fail(PROGRAM, proxy_sentence(problem), reason="bad-proxy", as_json=options.json)

    from twisted.internet import reactor

    use_monotonic_time(reactor)
    install_resolver(reactor)

    ended: list[NetcheckReport | Failure] = []

    def finish(result: NetcheckReport | Failure) -> None:
        ended.append(result)
        twistd.end(reactor)

    run = NetcheckRun(
        reactor=reactor,
        rendezvous=rendezvous,
        addresses=local_addresses,
        source=source_address,
        proxy=proxy,
        open_socket=open_socket,
        random=os.urandom,
        monotonic=time.monotonic,
        lifetime=options.lifetime,
        look_up_service=ServiceResolver(reactor),
        gateways=gateways_by(PortMappingPolicy(options.port_mapping)),
        upnp=upnp_of_machine(reactor),
        member=member,
        relay=RelayPolicy(options.relay),
        spray=SprayPolicy(options.spray),
    )
    twistd.end_on_signals(reactor)
    if options.lifetime is not None and not options.json and sys.stderr is not None and sys.stderr.isatty():
        write_stderr(f"This takes up to {options.lifetime + 5:.0f} seconds.")
    reactor.callWhenRunning(lambda: run.start().addBoth(finish))
    reactor.run()
    if not ended:
        return 1
    result = ended[0]
    if isinstance(result, Failure):
        result.raiseException()
    assert isinstance(result, NetcheckReport)
    written = json.dumps(netcheck_fields(result), separators=(",", ":")) if options.json else text(result)
    show(written, f"{PROGRAM}: The report can't be written")
    if result.problem is not None and options.json:
        write_stderr(f"{PROGRAM}: {problem_of(result)}")
    return 0 if result.problem is None else 1
