"""
Links and events: prints what happens to a node, its calls and its links.

`python watch.py RENDEZVOUS` prints its ID and waits, `python watch.py RENDEZVOUS ID [SECONDS]` calls it, and
keeps the link for SECONDS (60 if they are left out).
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from punch.identity import PeerID
from punch.net.reactor import use_monotonic_time
from punch.node.events import CallFailed, Connected, Disconnected, PathChanged, Registered
from punch.node.node import Node
from punch.ui.text.causes import event_sentence
from punch.wire.control import Accept
from punch.wire.rendezvous_address import RendezvousAddress


def watch(node, show=print):
    """Print events until what is returned is called."""

    def handle(event):
        if isinstance(event, Registered):
            show(f"registered at {event.rendezvous}")
        elif isinstance(event, (Connected, PathChanged)):
            path = event.path
            show(f"{event.peer.short}: {path.kind}, {path.local} to {path.remote}")
        elif isinstance(event, Disconnected):
            show(f"{event.peer.short}: the link is over ({event.reason})")
        elif isinstance(event, CallFailed):
            show(event_sentence(event))

    return node.subscribe(handle)


async def main(reactor, rendezvous, peer=None, seconds="60"):
    use_monotonic_time(reactor)
    node = Node(reactor=reactor, rendezvous=RendezvousAddress.parse(rendezvous), accept=Accept.ANYONE)
    print(node.identity.peer_id, flush=True)
    watch(node)
    node.startService()
    if peer is None:
        await Deferred()  # until Ctrl-C
    link = await node.connect(PeerID.parse(peer))
    lease = link.hold()  # no stream is open on it, so it would be closed after 10 s
    await deferLater(reactor, float(seconds))
    print(f"{link.status.path.kind}, round trip {1000 * link.rtt:.1f} ms")
    lease.release()
    await node.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
