"""
What the commands share that use or become the node of an identity while they run; and their exit statuses,
which docs/commands.md lists.

A composition root: here reactor, node, disk and terminal meet.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Coroutine
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from punch.cli import twistd
from punch.cli.parser import Parser
from punch.cli.usage import show, write_stderr
from punch.identity import PeerID
from punch.local.access import NodeAccess
from punch.local.process import NodeOptions, attach_or_become
from punch.local.protocol import CommandError
from punch.net.reactor import install_resolver, use_monotonic_time
from punch.node.policies import PortMappingPolicy, SprayPolicy
from punch.sentences import sentence_of
from punch.state import StateDirectory, login_name, own_state_dir
from punch.state_files import StateError
from punch.ui.terminal.escapes import takes_escapes
from punch.ui.text.causes import event_sentence
from punch.ui.text.sentences import shown_name
from punch.ui.transfer_progress import Display

T = TypeVar("T")

LOOK_INTERVAL = 3.0
"""Seconds between two checks whether peers can reach the node."""


class ExitStatus(IntEnum):
    """The exit statuses of commands: why a command ended."""

    DONE = 0
    FAILED = 1
    """A failure that has no status of its own."""
    USAGE = 2
    """The command line is wrong."""
    # 3 is that of a peer that another process has replaced (`punch.node.control.replacements`).
    NOT_THERE = 4
    """The peer is not registered, or does not serve what was asked for."""
    REFUSED = 5
    """The other side's user, or a policy there, refused."""
    NO_PATH = 6
    """No path to the peer, or to the rendezvous, was found."""
    CHANGED = 7
    """A file can't be read, or changed or vanished while it was sent."""
    NO_SPACE = 8
    """A disk is full, or can't be written."""
    NODE_LOST = 9
    """The process that has the node ended, or does not answer."""


REASONS = {
    "not-registered": ExitStatus.NOT_THERE,
    "gone": ExitStatus.NOT_THERE,
    "timeout": ExitStatus.NOT_THERE,
    "no-service": ExitStatus.NOT_THERE,
    "refused": ExitStatus.REFUSED,
    "busy": ExitStatus.REFUSED,
    "not-allowed": ExitStatus.REFUSED,
    "unreachable": ExitStatus.NO_PATH,
    "rendezvous-unreachable": ExitStatus.NO_PATH,
    "lost": ExitStatus.NO_PATH,
    "node-lost": ExitStatus.NODE_LOST,
    "node-timeout": ExitStatus.NODE_LOST,
}
"""The exit statuses for the reasons with which calls and streams fail."""


def status_of(reason: str) -> ExitStatus:
    """Return the exit status for a reason (docs/json.md)."""
    return REASONS.get(reason, ExitStatus.FAILED)


class CommandFailed(Exception):
    """The command ends with a sentence and a status, an `ExitStatus` or that of the other side."""

    def __init__(self, sentence: str, status: int = ExitStatus.FAILED, reason: str = "failed") -> None:
        super().__init__(sentence)
        self.status = status
        self.reason = reason


class NodeCommand:
    """
    A running command: its state directory, its node, and its output.

    It ends the process with a sentence if the state directory can't be used.

    :param final_line: what is printed in a terminal when a signal ends it.
    :param again: what happens if the command is run again after the node was lost.
    :param own_stdout: False: stdout is for data, and events go to stderr.
    :ivar book: the address book of the identity.
    :ivar display: what is shown to a user.
    """

    def __init__(
        self,
        program: str,
        options: Any,
        reactor: Any,
        final_line: str = "",
        *,
        again: str = "",
        own_stdout: bool = True,
    ) -> None:
        self.program = program
        self.final_line = final_line
        self.options = options
        self.reactor = reactor
        self._again = f": {again}" if again else ""
        self._own_stdout = own_stdout
        self._ended = False
        self._status: int = ExitStatus.FAILED
        self._started = time.monotonic()
        self.display = Display(write_stderr, self._terminal())
        try:
            self.state = StateDirectory(Path(options.state_dir))
            self.book = self.state.peer(options.name).book
        except StateError as error:
            self.fail(sentence_of(error), "state")

    def fail(self, sentence: str, reason: str) -> NoReturn:
        """End the process before the reactor runs."""
        twistd.fail(
            self.program, sentence, reason=reason, as_json=self.options.json, own_stdout=self._own_stdout
        )

    def _terminal(self) -> TextIO | None:
        """Return a stream on which progress bars can be drawn."""
        if self.options.json or sys.stderr is None or not sys.stderr.isatty():
            return None
        return sys.stderr if takes_escapes(os.environ) else None

    def run(self, work: Callable[[NodeAccess], Coroutine[Deferred[Any], Any, None]]) -> int:
        """Run the reactor until the work is done with a node; return the exit status."""

        async def with_node() -> None:
            node = await attach_or_become(
                NodeOptions(
                    self.state,
                    self.options.name,
                    self.options.rendezvous,
                    self.options.proxy,
                    PortMappingPolicy(self.options.port_mapping),
                    SprayPolicy(self.options.spray),
                    self.program,
                ),
                self.reactor,
                os.environ,
                event_sentence,
            )
            node.when_lost().addCallback(lambda _: self._node_lost())
            await work(node)

        return self.run_without_node(with_node)

    def run_without_node(self, work: Callable[[], Coroutine[Deferred[Any], Any, None]]) -> int:
        """Run the reactor until the work is done; return the exit status."""
        use_monotonic_time(self.reactor)
        install_resolver(self.reactor)
        twistd.end_on_signals(self.reactor, final_line="" if self.options.json else self.final_line)

        async def main() -> None:
            try:
                await work()
                self._status = ExitStatus.DONE
            except CommandError as error:
                self._status = status_of(error.reason)
                self._failed(str(error), error.reason)
            except CommandFailed as error:
                self._status = error.status
                self._failed(str(error), error.reason)
            self._ended = True
            twistd.end(self.reactor, self._status)

        self.reactor.addSystemEventTrigger("before", "shutdown", self._end)
        self.reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()).addErrback(self._broken))
        self.reactor.run()
        return self._status

    def _end(self) -> None:
        self._ended = True

    def _broken(self, failure: Any) -> None:
        write_stderr(f"{self.program}: an error of this program: {failure.getTraceback()}")
        twistd.end(self.reactor, 1)

    def _node_lost(self) -> None:
        if not self._ended:
            self._status = ExitStatus.NODE_LOST
            self._failed(
                "The process of the node, to which this command was attached, has ended. Run it "
                f"again{self._again}.",
                "node-lost",
            )
            twistd.end(self.reactor, ExitStatus.NODE_LOST)

    def in_thread(self, call: Callable[[], T], /) -> Deferred[T]:
        """Call a function that waits for the disk, in a thread."""
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), call)

    def tell(self, sentence: str, **fields: Any) -> None:
        """Print a sentence for the user on stderr, or with `--json` an event with `fields`."""
        if self.options.json:
            told = {**fields, "time": round(time.monotonic() - self._started, 6)}
            line = json.dumps(told, separators=(",", ":"))
            if self._own_stdout:
                self.show(line)
            else:
                write_stderr(line)
        elif sentence and not self._ended:
            # What ends because this command ends is not reported.
            self.display.line(sentence)

    def show(self, text: str) -> None:
        """Print on stdout. The command ends if that can't be written, as on a full disk."""
        try:
            show(text, f"{self.program}: The output can't be written")
        except SystemExit as problem:
            # A Deferred would catch it.
            write_stderr(str(problem))
            self._ended = True
            twistd.end(self.reactor, ExitStatus.FAILED)

    def _failed(self, sentence: str, reason: str) -> None:
        """Report why the command ends, unless it ends already."""
        if self._ended:
            return
        if self.options.json:
            self.tell(sentence, event="failed", reason=reason, text=sentence)
        if self._own_stdout or not self.options.json:
            self.display.line(f"{self.program}: {sentence}")

    async def stay_registered(self, node: NodeAccess) -> None:
        """
        Report when the connection to the rendezvous is lost, and when it is back. It does not return.

        :raise CommandFailed: the node will not be registered again.
        """
        before = True
        while True:
            await deferLater(self.reactor, LOOK_INTERVAL, lambda: None)
            try:
                status = await node.status()
            except CommandError:
                # The process of the node ends, which is reported elsewhere.
                await Deferred()
            registered, problem = status.get("registered") is True, status.get("problem") or {}
            if not registered and problem.get("final"):
                reason = str(problem["reason"])
                raise CommandFailed(str(problem["text"]), status_of(reason), reason)
            if registered is not before:
                self._tell_registration(node.rendezvous, registered, problem)
            before = registered

    def _tell_registration(self, rendezvous: str, registered: bool, problem: dict[str, Any]) -> None:
        if registered:
            self.tell(f"Registered at {rendezvous}.", event="registered", rendezvous=rendezvous)
            return
        why = problem.get("text") or f"Not registered at {rendezvous} yet."
        self.tell(
            f"{why} It is tried again; until then, only peers who have a link can reach you.",
            event="unregistered",
            rendezvous=rendezvous,
            reason=problem.get("reason"),
            text=why,
        )

    def called(self, peer: PeerID) -> str:
        """Return what a peer is called in sentences."""
        return shown_name(self.book.name_of(peer) or "", peer)


class Registers(Enum):
    """
    When a command registers with a rendezvous itself. The value is what the help of its options adds about
    that.
    """

    WITHOUT_NODE = ", if no node of yours runs"
    FOR_A_CODE = ", for a code, or if no node of yours runs"
    ALWAYS = ""
    """Always: it makes no link, and needs no node."""


def make_parser(
    program: str,
    description: str,
    page: str,
    *,
    words_name_files: bool = False,
    own_stdout: bool = True,
    registers: Registers = Registers.WITHOUT_NODE,
) -> Parser:
    """
    Return a parser with the options that all these commands have.

    :param page: describes the events of `--json`.
    :param own_stdout: as of `NodeCommand`.
    """
    parser = Parser(
        program, description=description, words_name_files=words_name_files, own_stdout=own_stdout
    )
    where = "stdout" if own_stdout else "stderr"
    when = registers.value
    parser.add_argument("--json", action="store_true", help=f"events as JSON lines on {where}; see {page}")
    parser.add_argument(
        "--rendezvous",
        metavar="ADDRESS",
        help=f"punch://host:port/PIN{when} "
        "[default: that of PUNCH_RENDEZVOUS, else the last one, else your own on this machine]",
    )
    parser.add_rare_argument(
        "--proxy",
        metavar="URL",
        help=f"HTTP or SOCKS5 proxy, or none{when} [default: that of the environment]",
    )
    if registers is not Registers.ALWAYS:
        parser.add_rare_argument(
            "--port-mapping",
            choices=[policy.value for policy in PortMappingPolicy],
            default=PortMappingPolicy.AUTO.value,
            help=f"whether your router is asked for a port that leads here{when} [default: %(default)s]",
        )
        parser.add_rare_argument(
            "--spray",
            choices=[policy.value for policy in SprayPolicy],
            default=SprayPolicy.AUTO.value,
            help=f"whether many packets may go to guessed ports of a peer on a relayed link{when} "
            "[default: %(default)s]",
        )
    parser.add_rare_argument(
        "--name",
        default=login_name(os.environ),
        help=f"whose {'address book' if registers is Registers.ALWAYS else 'node'}: the identity of that "
        "name [default: %(default)s]",
    )
    parser.add_rare_argument(
        "--state-dir",
        default=str(own_state_dir(os.environ)),
        metavar="DIR",
        help="where it is kept [default: %(default)s]",
    )
    return parser
