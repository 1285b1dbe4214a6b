"""Echo: `echo.py RENDEZVOUS` serves and prints its ID, `echo.py RENDEZVOUS PEER [TEXT]` asks that peer."""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.link.services import anyone
from punch.net.reactor import use_monotonic_time
from punch.node.events import Registered
from punch.node.node import Node
from punch.wire.control import Accept
from punch.wire.rendezvous_address import RendezvousAddress


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Ask(Protocol):
    def __init__(self):
        self.data, self.answered = b"", Deferred()

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.answered.callback(self.data)


def serve(node):
    node.serve("echo/1", Factory.forProtocol(Echo), anyone)


async def ask(node, peer, text):
    link = await node.connect(peer)
    stream = await link.connect("echo/1", Factory.forProtocol(Ask))
    stream.transport.write(text)
    stream.transport.loseWriteConnection()
    return await stream.answered


async def main(reactor, rendezvous, peer=None, text="hello"):
    use_monotonic_time(reactor)
    node = Node(
        reactor=reactor,
        identity=Identity.generate(),
        name="echo",
        accept=Accept.ANYONE,
        known=AddressBook(None),
        rendezvous=RendezvousAddress.parse(rendezvous),
    )
    serve(node)

    def tell(event):
        if peer is None and isinstance(event, Registered):
            print(node.identity.peer_id, flush=True)

    node.subscribe(tell)
    node.startService()
    if peer is None:
        await Deferred()  # until Ctrl-C
    print((await ask(node, PeerID.parse(peer), text.encode())).decode(), flush=True)
    await node.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
