"""
The command `punch identity revoke`: have a rendezvous refuse this identity for ever, because somebody else
has its key.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from punch.cli import twistd
from punch.cli.parser import PROXY_HELP, Parser
from punch.cli.usage import show, write_stderr
from punch.identity import Identity
from punch.local.rendezvous import (
    BadProxy,
    NoRendezvous,
    choose_proxy,
    choose_rendezvous,
    proxy_sentence,
    rendezvous_sentence,
)
from punch.names import without_format
from punch.net.driver import Timer
from punch.net.reactor import install_resolver, use_monotonic_time
from punch.net.srv import LookUpService, ServiceResolver
from punch.node.causes import ControlProblem
from punch.node.control.client import ControlClient
from punch.sentences import sentence_of
from punch.state import StateDirectory, login_name, own_state_dir
from punch.state_files import StateError, StateProblem
from punch.ui.text.causes import problem_sentence
from punch.wire.control import Accept, Register, Reply, Revoke, Welcome
from punch.wire.invitation import AdmissionRefusal
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress

PROGRAM = "punch identity revoke"
TIMEOUT = 20.0
"""Seconds that the whole command may take."""


class Revocation:
    """
    Registers, sends the revocation, and waits until the rendezvous refuses this identity for that reason.

    :ivar done: whether the rendezvous refuses the identity now.
    :ivar problem: why it could not be revoked; None: no answer came in time.
    """

    def __init__(
        self,
        reactor: Any,
        rendezvous: Sequence[RendezvousAddress],
        identity: Identity,
        ended: Any,
        *,
        proxy: ProxySettings | None,
        look_up_service: LookUpService,
        random: Any = os.urandom,
    ) -> None:
        """
        :param ended: called when it is over.
        :param proxy: as `ControlClient` takes it, like `look_up_service`.
        """
        self.done = False
        self.problem: ControlProblem | None = None
        self._identity = identity
        self._ended = ended
        self._late = Timer(reactor)
        self._client = ControlClient(
            reactor=reactor,
            address=rendezvous,
            identity=identity,
            register=Register("revoked", Accept.KNOWN),
            handler=self,
            random=random,
            proxy=proxy,
            look_up_service=look_up_service,
        )

    def start(self) -> None:
        """Begin."""
        self._late.start(TIMEOUT, self._end)
        self._client.start()

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """Registered: send the revocation."""
        self._client.send(Revoke.by(self._identity))

    def control_reply(self, reply: Reply) -> None:
        """Ignore other messages."""

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """The rendezvous has closed the connection. If the cause is permanent, that is its answer."""
        self.problem = problem
        if retry_in is None:
            self.done = problem.refusal is AdmissionRefusal.ID_REVOKED
            self._end()

    def _end(self) -> None:
        self._late.cancel()
        self._client.stop().addBoth(lambda _: self._ended())


def main(arguments: Sequence[str]) -> int:
    """
    Run `punch identity`.

    :return: the exit status.
    """
    words = list(arguments)
    action = without_format(words[0]) if words else ""
    if action == "revoke":
        words.pop(0)
    elif action not in ("-h", "--help", "--help-all"):
        write_stderr(
            "punch identity: the only command is punch identity revoke; see punch identity revoke --help"
        )
        return 2
    login, root = login_name(os.environ), str(own_state_dir(os.environ))
    parser = Parser(
        PROGRAM,
        description="Have the rendezvous refuse this identity for ever, for example because its key was "
        "stolen. This can't be undone, and each rendezvous has to be told. Your key and messages stay.",
    )
    parser.add_argument("--yes", action="store_true", help="required, since this can't be undone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--name", default=login, help=f"which identity [default: {login}]".replace("%", "%%"))
    parser.add_argument(
        "--rendezvous",
        metavar="ADDRESS",
        action="append",
        help="which one to tell; several servers of one service with commas, or the option several times "
        "[default: that of PUNCH_RENDEZVOUS, else the last one, else your own on this machine]",
    )
    parser.add_argument("--proxy", metavar="URL", help=PROXY_HELP)
    parser.add_argument(
        "--state-dir", default=root, metavar="DIR", help=f"[default: {root}]".replace("%", "%%")
    )
    options = parser.parse(words)
    try:
        state = StateDirectory(Path(options.state_dir))
        peer = state.peer(options.name)
        if not peer.has_identity:
            raise StateError(StateProblem.NO_IDENTITY, path=Path(options.state_dir), name=options.name)
        identity = peer.identity()
        given = ",".join(options.rendezvous) if options.rendezvous else None
        rendezvous = choose_rendezvous(given, state, options.name, os.environ)
        proxy = choose_proxy(options.proxy, os.environ)
    except StateError as problem:
        twistd.fail(PROGRAM, sentence_of(problem), reason="state", as_json=options.json)
    except NoRendezvous as problem:
        twistd.fail(PROGRAM, rendezvous_sentence(problem), reason=problem.reason, as_json=options.json)
    except BadProxy as problem:
        twistd.fail(PROGRAM, proxy_sentence(problem), reason="bad-proxy", as_json=options.json)
    if not options.yes:
        parser.error(f"{identity.peer_id.short} would be refused for ever: add --yes if you want that")
    return _tell(rendezvous, identity, proxy, as_json=options.json)


def _tell(
    rendezvous: Sequence[RendezvousAddress], identity: Identity, proxy: ProxySettings | None, *, as_json: bool
) -> int:
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    install_resolver(reactor)
    revocation = Revocation(
        reactor,
        rendezvous,
        identity,
        lambda: twistd.end(reactor),
        proxy=proxy,
        look_up_service=ServiceResolver(reactor),
    )
    twistd.end_on_signals(reactor)
    run: Any = reactor
    run.callWhenRunning(revocation.start)
    run.run()
    sys.stdout.flush()
    if not revocation.done:
        problem = revocation.problem
        text = "The rendezvous has not confirmed the revocation; it may be too old to know them."
        if problem is not None:
            text = problem_sentence(problem)
        twistd.fail(PROGRAM, text, reason="timeout" if problem is None else problem.reason, as_json=as_json)
    if as_json:
        show(json.dumps({"event": "revoked", "peer": str(identity.peer_id)}))
    else:
        where = rendezvous[0].location
        show(f"{identity.peer_id} is revoked: the rendezvous at {where} refuses it for ever.")
    return 0
