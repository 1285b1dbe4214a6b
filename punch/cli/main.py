"""
The console script `punch`: the twistd plugins under shorter names, and a demonstration.

`punch peer …` is `twistd -n punch-peer …`, run by twistd's own machinery, so that there is one reference for
the options. Nothing heavy is imported before it is known what is wanted.
"""

from __future__ import annotations

import punch.cli.startup  # noqa: F401 (first: what follows takes long)

# isort: split
import sys
from collections.abc import Callable, Sequence
from typing import Any

from punch import __version__
from punch.cli.startup import end_quietly_on_interrupt, end_without_collecting, loading
from punch.cli.usage import (
    escape_output,
    show,
    visible_words,
    write_stderr,
)

USAGE = f"""\
Punch {__version__}: direct, private links between machines behind NATs.
Usage: punch COMMAND [options]

Commands:
  demo         start a rendezvous and two peers here, and let them chat
  rendezvous   introduce peers to each other (twistd -n punch-rendezvous), and
               rendezvous status, invite, invitations, peers, usage, revoke
  chat [WHO]   chat in this terminal, and call WHO, a name or an ID
  web [WHO]    chat in a browser: prints the address to open
  peer         the same for scripts: --peer WHO, --json (twistd -n punch-peer)
  invite       get to know a peer: prints a code
  join CODE    get to know the peer who printed it
  send         send files and folders: send PATH... WHO; without WHO, by a code
  receive      receive what others send, or what a code is for
  forward      reach a port that a peer exposes: forward 8080 WHO:80
  expose       let peers reach a port of this machine: expose 22 --to WHO
  pipe         join stdin and stdout with a peer's: pipe WHO [SERVICE]
  peers        the address book: list, name, block, grant, forget, add, ...
  status       say what the node that runs here does: links, paths, services
  netcheck     say what this network does to links: NAT, UDP, relays
  identity     identity revoke: have the rendezvous refuse your ID for ever
  id           print your peer ID, making a key if there is none yet

punch COMMAND --help explains a command. punch --version prints the version."""

PLUGINS = {"rendezvous": "punch-rendezvous", "peer": "punch-peer"}

#: Commands that start the plugin `punch-peer`, each with its options. Their argument is the peer to call.
CHATS: dict[str, list[str]] = {"chat": [], "web": ["--web"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :param arguments: by default those of the process.
    :return: the exit status.
    """
    if arguments is None:
        end_quietly_on_interrupt()
        end_without_collecting()
    escape_output()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "--help-all", "help"):
        show(USAGE)
        return 0
    from punch.names import without_format

    # Invisible characters come along when a command is pasted.
    command, rest = without_format(words[0]), words[1:]
    action = without_format(rest[0]) if rest else ""
    if command in ("-V", "--version", "version"):
        show(f"Punch {__version__}")
        return 0
    if command == "rendezvous" and action == "status":
        from punch.cli.rendezvous.status import main as status

        return status(rest[1:])
    if command == "rendezvous" and action in ("invite", "invitations", "peers", "usage", "revoke"):
        from punch.cli.rendezvous.members import main as members

        return members(action, rest[1:])
    if command in PLUGINS:
        return _plugin(command, PLUGINS[command], rest)
    if command in CHATS:
        return _plugin(command, "punch-peer", [*CHATS[command], *_with_peer(rest)])
    if command == "id":
        return _id(rest)
    if command == "peers":
        from punch.cli.commands.peers import main as peers

        return peers(rest)
    if command == "identity":
        from punch.cli.commands.identity import main as identity

        return identity(rest)
    if command == "status":
        from punch.cli.commands.status import main as node_status

        return node_status(rest)
    if command == "netcheck":
        from punch.cli.commands.netcheck import main as netcheck

        return netcheck(rest)
    if command == "send":
        from punch.cli.commands.send import main as send

        return send(rest)
    if command == "receive":
        from punch.cli.commands.receive import main as receive

        return receive(rest)
    if command in ("invite", "join"):
        from punch.cli.commands.codes import invite, join

        return invite(rest) if command == "invite" else join(rest)
    if command in ("forward", "expose"):
        from punch.cli.commands.forward import expose, forward

        return forward(rest) if command == "forward" else expose(rest)
    if command == "pipe":
        from punch.cli.commands.pipe import main as pipe

        return pipe(rest)
    if command == "demo":
        from punch.cli.commands.demo import main as demo

        return demo(rest)
    from punch.sanitize import quoted

    write_stderr(f"punch: there is no command {quoted(command)}; punch --help lists them.")
    return 2


def _with_peer(rest: Sequence[str]) -> Sequence[str]:
    """
    Return the command line of a chat, with `--peer WHO` in place of the argument WHO, which may stand
    anywhere between the options.
    """
    import getopt

    from punch.cli.peer_tap import Options

    known: Any = Options()
    try:
        seen = visible_words(rest, known.files)
        options, words = getopt.gnu_getopt(seen, known.shortOpt, known.longOpt)
    except getopt.GetoptError:
        return rest  # The plugin says what is wrong with it.
    takes_value = {f"--{name[:-1]}" for name in known.longOpt if name.endswith("=")}
    who = ["--peer", words.pop(0)] if words else []
    return [*who, *(f"{name}={value}" if name in takes_value else name for name, value in options), *words]


def _plugin(command: str, plugin: str, rest: Sequence[str]) -> int:
    """Run `twistd -n PLUGIN …` in this process, for `punch COMMAND …`."""
    with loading():
        from twisted.scripts import twistd

    from punch.cli.twistd import commands

    commands[plugin] = f"punch {command}"
    # twistd reads the command line itself, and may start again from it.
    sys.argv = ["twistd", "-n", plugin, *rest]
    run: Callable[[], None] = twistd.run
    run()
    return 0


def _id(rest: Sequence[str]) -> int:
    import json
    import os
    from pathlib import Path

    from punch.cli.parser import Parser
    from punch.sentences import sentence_of
    from punch.state import StateDirectory, login_name, own_state_dir
    from punch.state_files import StateError

    login = login_name(os.environ)
    root = own_state_dir(os.environ)
    parser = Parser(
        "punch id", description="Print the ID of this user's peer, making its key if there is none yet."
    )
    parser.add_argument("--name", default=login, help="the identity of that name [default: %(default)s]")
    parser.add_argument(
        "--state-dir", default=str(root), metavar="DIR", help="where keys are kept [default: %(default)s]"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse(rest)
    try:
        peer_id = str(StateDirectory(Path(options.state_dir)).peer(options.name).identity().peer_id)
    except StateError as error:
        text = sentence_of(error)
        if options.json:
            show(json.dumps({"event": "failed", "time": 0.0, "reason": "state", "text": text}))
        write_stderr(f"punch id: {text}")
        return 1
    show(json.dumps({"event": "id", "id": peer_id, "name": options.name}) if options.json else peer_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
