"""
A node with the two services of docs/examples, without the chat: `service_node.py RENDEZVOUS [PEER]`.

With a peer it calls that one, opens streams that are refused, waits for a line on stdin, uses both services
at once, and lets the link end. It prints what happens as JSON lines, with the sentences of watch.py.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any, cast

from twisted.internet import stdio
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react
from twisted.protocols.basic import LineReceiver

from punch.contacts import AddressBook
from punch.identity import PeerID
from punch.link.events import ServiceRefused
from punch.link.link import SERVICE_WAIT, Link
from punch.link.services import anyone
from punch.net.reactor import use_monotonic_time
from punch.node.events import Connected, Disconnected, Event
from punch.node.node import Node
from punch.wire.control import Accept
from punch.wire.rendezvous_address import RendezvousAddress

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ECHO, COUNTER, WATCH = (runpy.run_path(str(EXAMPLES / f"{name}.py")) for name in ("echo", "counter", "watch"))


def say(event: str, **fields: Any) -> None:
    """Print one JSON line."""
    print(json.dumps({"event": event, **fields}), flush=True)


def tell(event: Event) -> None:
    """Print when links begin and end."""
    if isinstance(event, Connected):
        say("connected", peer=str(event.peer), path=event.path.kind)
    elif isinstance(event, Disconnected):
        say("disconnected", peer=str(event.peer), reason=event.reason)


class Commands(LineReceiver):
    """On stdin: a line with an ID grants this peer the counter; any line lets `next_line` fire."""

    delimiter = b"\n"

    def __init__(self, book: AddressBook) -> None:
        self.next_line: Deferred[None] = Deferred()
        self._book = book

    def lineReceived(self, line: bytes) -> None:
        """Handle one line."""
        if line:
            self._book.grant(PeerID.parse(line.decode()), "counter/1")
            say("granted")
        waiting, self.next_line = self.next_line, Deferred()
        waiting.callback(None)


async def refusal(link: Link, service: str) -> None:
    """Open a service that refuses this peer, and print how, and how many echoes were back by then."""
    opening = link.connect(service, Factory.forProtocol(Protocol))
    echoes = 0
    while not opening.called:
        await ECHO["ask"](link, "round trip")
        echoes += 1
    try:
        await opening
    except ServiceRefused as refused:
        say("refused", service=service, code=refused.code.name, echoes=echoes)


async def increment(link: Link) -> int:
    """Count one more at the other side."""
    stream = await link.connect("counter/1", Factory.forProtocol(COUNTER["Increment"]))
    return cast(int, await cast(Any, stream).answered)


async def main(reactor: Any, rendezvous: str, peer: str | None = None) -> None:
    """Serve, and do what the module's docstring says."""
    use_monotonic_time(reactor)
    book = AddressBook(None)
    address = RendezvousAddress.parse(rendezvous)
    node = Node(reactor=reactor, rendezvous=address, accept=Accept.ANYONE, known=book)
    node.serve("echo/1", Factory.forProtocol(ECHO["Echo"]), anyone)
    node.serve("counter/1", COUNTER["CountFactory"]())
    node.subscribe(tell)
    WATCH["watch"](node, lambda sentence: say("watched", text=sentence))
    commands = Commands(book)
    stdio.StandardIO(commands)
    node.startService()
    await node.when_registered()
    say("registered", id=str(node.identity.peer_id))
    if peer is None:
        await Deferred[None]()  # until it is ended
    link = await node.connect(PeerID.parse(str(peer)))
    lease = link.hold()
    await deferLater(reactor, 2 * SERVICE_WAIT)
    for service in ("nobody/1", "counter/1"):
        await refusal(link, service)
    await commands.next_line
    asking = [ECHO["ask"](link, "hello"), increment(link), increment(link)]
    say("answers", answers=await gatherResults(map(Deferred.fromCoroutine, asking)))
    released = reactor.seconds()
    lease.release()
    closed = await link.when_closed()
    say("closed", code=closed.code.name, seconds=reactor.seconds() - released)
    await node.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
