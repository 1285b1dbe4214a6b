"""
`punch invite` and `punch join`, by which two peers get into each other's address book, and what all commands
with codes have in common: reading and showing codes, and meeting the other side at the rendezvous.

A composition root, as `punch.cli.commands.node_command`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from punch.apps.codes.code import (
    LIFE,
    REGISTERED_NAME,
    Card,
    Code,
    CodeError,
    CodeFailed,
    CodeFailure,
    CodePurpose,
    completions,
)
from punch.cli import twistd
from punch.cli.commands.node_command import (
    CommandFailed,
    ExitStatus,
    NodeCommand,
    Registers,
    make_parser,
    status_of,
)
from punch.cli.parser import Parser
from punch.cli.usage import write_stderr
from punch.contacts import AddressBook, AddressBookError
from punch.extras import install_command_here
from punch.identity import Identity
from punch.local.own import OwnNode
from punch.local.process import temporary_node
from punch.local.rendezvous import (
    BadProxy,
    NoRendezvous,
    choose_proxy,
    choose_rendezvous,
    proxy_sentence,
    rendezvous_sentence,
)
from punch.names import BadPetname, check_new_petname
from punch.net.srv import ServiceResolver
from punch.node.causes import ControlProblem
from punch.node.policies import PortMappingPolicy, SprayPolicy
from punch.sentences import sentence_of
from punch.state_files import StateError
from punch.ui.text.causes import event_sentence
from punch.ui.text.codes import code_error_sentence, code_lines, failure_sentence, unregistered_sentence
from punch.ui.text.sentences import shown_name

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from punch.apps.codes.exchange import Issuer, Redeemer

_QUESTION = "Code: "
_STATUSES = {
    CodeFailure.WRONG: ExitStatus.REFUSED,
    CodeFailure.EXPIRED: ExitStatus.NOT_THERE,
    CodeFailure.NOBODY: ExitStatus.NOT_THERE,
    CodeFailure.TOO_MANY: ExitStatus.REFUSED,
    CodeFailure.BUSY: ExitStatus.REFUSED,
    CodeFailure.LOST: ExitStatus.NO_PATH,
}


def parse_code(program: str, text: str, as_json: bool) -> Code:
    """Read a code, or end the process with a sentence."""
    try:
        return Code.parse(text)
    except CodeError as error:
        twistd.fail(program, code_error_sentence(error), reason="bad-code", as_json=as_json)


class CodeCommand:
    """
    What a command needs to make or use a code.

    It ends the process with a sentence if no rendezvous is known, or the library for codes is not installed.

    :param purpose: what the code is for.
    :ivar rendezvous: its addresses.
    :ivar own_name: what the user calls itself, for the other side.
    """

    def __init__(self, command: NodeCommand, purpose: CodePurpose) -> None:
        self._command = command
        self._purpose = purpose
        program, options = command.program, command.options
        try:
            self.rendezvous = choose_rendezvous(options.rendezvous, command.state, options.name, os.environ)
            self._proxy = choose_proxy(options.proxy, os.environ)
            state = command.state.peer(options.name)
            self.own_name = state.display_name
            self._member = state.identity() if state.has_identity else None
        except StateError as error:
            twistd.fail(program, sentence_of(error), reason="state", as_json=options.json)
        except NoRendezvous as error:
            twistd.fail(program, rendezvous_sentence(error), reason=error.reason, as_json=options.json)
        except BadProxy as error:
            twistd.fail(program, proxy_sentence(error), reason="bad-proxy", as_json=options.json)
        try:
            import spake2  # noqa: F401
        except ModuleNotFoundError:
            twistd.fail(
                program,
                f"Codes need a package that is not there, spake2: {install_command_here('codes')}",
                as_json=options.json,
            )

    def node(self, identity: Identity) -> OwnNode:
        """
        Make a node that keeps nothing on disk. Its address book, which is empty, becomes that of the command.
        """
        self._command.book = AddressBook(None)
        return temporary_node(
            identity,
            REGISTERED_NAME,
            self._command.book,
            self.rendezvous,
            self._command.reactor,
            self._proxy,
            PortMappingPolicy(self._command.options.port_mapping),
            SprayPolicy(self._command.options.spray),
            event_sentence,
            self._member,
        )

    async def issue(self, identity: Identity, name: str) -> Card:
        """
        Make a code, show it, and wait until somebody uses it.

        :param identity: who this side is.
        :param name: what it calls itself.
        :raise CommandFailed: nobody has used it, or using it failed.
        """
        from punch.apps.codes.client import issue_code

        now = self._command.reactor.seconds
        try:
            return await issue_code(
                identity, name, self._purpose, meet=self._meet, now=now, on_registered=self._show
            )
        except CodeFailed as failed:
            raise self._failed(failed, failure_sentence(failed, self._purpose, issuer=True)) from None
        except ControlProblem as problem:
            raise _unregistered(problem) from problem

    async def redeem(self, code: Code, identity: Identity, name: str) -> Card:
        """
        Use a code of the other side.

        :raise CommandFailed: it can't be used.
        """
        from punch.apps.codes.exchange import Redeemer

        caller, now = Identity.generate(), self._command.reactor.seconds()
        redeemer = Redeemer(code, caller.peer_id, identity, name, self._purpose, now)
        try:
            return await self._meet(redeemer, caller, lambda: None)
        except CodeFailed as failed:
            where = ", ".join(address.location for address in self.rendezvous)
            sentence = failure_sentence(failed, self._purpose, issuer=False, number=code.number, where=where)
            raise self._failed(failed, sentence) from None
        except ControlProblem as problem:
            raise _unregistered(problem) from problem

    def remember_rendezvous(self) -> None:
        """Keep the address of the rendezvous for the next time."""
        state = self._command.state.peer(self._command.options.name)
        try:
            state.remember_rendezvous(",".join(map(str, self.rendezvous)))
        except StateError as error:
            write_stderr(f"{self._command.program}: {sentence_of(error)}")

    def _meet(
        self, core: Issuer | Redeemer, key: Identity, on_registered: Callable[[], object]
    ) -> Deferred[Card]:
        from punch.apps.codes.client import CodeClient

        reactor = self._command.reactor
        client = CodeClient(
            core,
            key,
            reactor=reactor,
            rendezvous=self.rendezvous,
            member=self._member,
            on_registered=on_registered,
            monotonic=reactor.seconds,
            proxy=self._proxy,
            look_up_service=ServiceResolver(reactor),
        )
        return client.run()

    def _show(self, code: Code) -> None:
        """
        Print the code, and what to do with it, on stderr. If stdout is no terminal, print the code alone
        there, too. With `--json`, print an event instead.
        """
        if self._command.options.json:
            self._command.tell("", event="code", code=str(code), expires=LIFE)
            return
        write_stderr(code_lines(str(code), self._purpose))
        if sys.stderr is not None and sys.stderr.isatty():
            _show_qr_code(str(code))
        if sys.stdout is not None and not sys.stdout.isatty():
            self._command.show(str(code))

    def _failed(self, failed: CodeFailed, sentence: str) -> CommandFailed:
        status = _STATUSES.get(failed.failure, ExitStatus.FAILED)
        return CommandFailed(sentence, status, failed.failure.value)


def _unregistered(problem: ControlProblem) -> CommandFailed:
    return CommandFailed(unregistered_sentence(problem), status_of(problem.reason), problem.reason)


def _show_qr_code(text: str) -> None:
    try:
        import segno

        "\N{FULL BLOCK}".encode(sys.stderr.encoding)
    except (ModuleNotFoundError, UnicodeEncodeError):
        return
    # If the QR code can't be drawn, the lines that were printed before it contain the code
    with suppress(OSError, ValueError):
        segno.make_qr(text.upper(), error="l").terminal(out=sys.stderr, compact=True)


# -- punch invite and punch join --


def invite(arguments: Sequence[str]) -> int:
    """
    Make a code, and wait for whoever joins with it.

    :return: the exit status, one of `ExitStatus`.
    """
    program = "punch invite"
    parser = make_parser(
        program,
        "Get to know a peer: prints a code, and waits until the other side types it (punch join CODE). Then "
        "each is in the other's address book.",
        "docs/codes.md",
        registers=Registers.ALWAYS,
    )
    options = _parse(parser, arguments)
    return _run(program, options, "Stopped. The code can't be used any more.")


def join(arguments: Sequence[str]) -> int:
    """
    Use a code that `punch invite` printed elsewhere.

    :return: the exit status, one of `ExitStatus`.
    """
    program = "punch join"
    parser = make_parser(
        program,
        "Get to know the peer who ran punch invite, by the code that it printed. Then each is in the other's "
        "address book.",
        "docs/codes.md",
        registers=Registers.ALWAYS,
    )
    parser.add_argument(
        "code",
        metavar="CODE",
        nargs="*",
        help="as in 48213-mayonnaise-coyote-tulip; without it, you are "
        "asked in a terminal, where the Tab key completes words",
    )
    options = _parse(parser, arguments)
    if not options.code:
        if options.json or not can_ask():
            parser.error("it needs the code: punch join CODE")
        options.code = [ask_code()]
    return _run(program, options, "Stopped.")


def _parse(parser: Parser, arguments: Sequence[str]) -> Any:
    parser.add_argument(
        "--as", dest="petname", metavar="NAME", help="your name for them [default: what they call themselves]"
    )
    return parser.parse(arguments)


def _run(program: str, options: Any, final_line: str) -> int:
    code = parse_code(program, " ".join(options.code), options.json) if "code" in options else None
    from twisted.internet import reactor

    command = NodeCommand(program, options, reactor, final_line)
    state = command.state.peer(options.name)
    try:
        if options.petname is not None:
            options.petname = check_new_petname(options.petname)
        identity = state.identity()
    except (BadPetname, AddressBookError, StateError) as error:
        reason = "state" if isinstance(error, StateError) else error.code
        twistd.fail(program, sentence_of(error), reason=reason, as_json=options.json)
    codes = CodeCommand(command, CodePurpose.CONTACT)

    async def meet() -> None:
        if code is None:
            card = await codes.issue(identity, codes.own_name)
        else:
            card = await codes.redeem(code, identity, codes.own_name)
        if card.peer == identity.peer_id:
            raise CommandFailed(
                "This is a code of your own: it is for another person, or for another identity (--name).",
                ExitStatus.FAILED,
                "self",
            )
        _remember(command, card)
        codes.remember_rendezvous()

    return command.run_without_node(meet)


def _remember(command: NodeCommand, card: Card) -> None:
    """
    Put the other side into the address book.

    :raise CommandFailed: it can't be written.
    """
    book, peer = command.book, card.peer
    book.sleep = time.sleep
    problem = ""
    try:
        book.add(peer, card.name)
        if command.options.petname is not None:
            book.rename(peer, command.options.petname)
    except AddressBookError as error:
        if error.code != "name-taken":
            raise CommandFailed(sentence_of(error), ExitStatus.FAILED, error.code) from None
        problem = f" {sentence_of(error)}"
    petname = book.name_of(peer)
    who = shown_name(petname or card.name, peer)
    sentence = f"You and {who} know each other now. Their ID is {peer}.{problem}"
    if book.blocked(peer):
        sentence += f" You have blocked them: punch peers unblock {petname or peer}."
    else:
        sentence += f" Try: punch chat {petname or peer}"
    command.tell(sentence, event="contact", peer=str(peer), petname=petname, name=card.name)


def can_ask() -> bool:
    """Whether there is a terminal to ask in."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask_code() -> str:
    """
    Return the code that the user types, or "" at the end of the input. Ctrl-C ends the process.

    The Tab key completes its words where prompt_toolkit is installed.
    """
    try:
        return _ask_with_completion()
    except EOFError:
        return ""
    except ModuleNotFoundError:
        write_stderr(_QUESTION, end="")
        return sys.stdin.readline()


def _ask_with_completion() -> str:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output

    class Words(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            typed, found = completions(document.text_before_cursor)
            return (Completion(word, -len(typed)) for word in found)

    output = create_output(sys.stderr)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False  # It would ask the terminal where the cursor is, and wait for the answer
    session: PromptSession[str] = PromptSession(completer=Words(), complete_while_typing=False, output=output)
    try:
        return session.prompt(_QUESTION)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise
