"""`punch invite` and `punch join`: two peers get into each other's address book by a code."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from punch.apps.codes.code import Card, CodePurpose, completions
from punch.cli import twistd
from punch.cli.commands.codes import CodeCommand, parse_code
from punch.cli.commands.node_command import CommandFailed, ExitStatus, NodeCommand, Registers, make_parser
from punch.cli.parser import Parser
from punch.cli.usage import write_stderr
from punch.contacts import AddressBookError
from punch.petnames import BadPetname, check_new_name
from punch.state import StateError
from punch.ui.text.sentences import shown_name

_QUESTION = "Code: "


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
            options.petname = check_new_name(options.petname)
        identity = state.identity()
    except (BadPetname, AddressBookError, StateError) as error:
        reason = "state" if isinstance(error, StateError) else error.code
        twistd.fail(program, str(error), reason=reason, as_json=options.json)
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
            raise CommandFailed(str(error), ExitStatus.FAILED, error.code) from None
        problem = f" {error}"
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
    Return the code that the user types; nothing, at the end of the input. Ctrl-C ends the process.

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
