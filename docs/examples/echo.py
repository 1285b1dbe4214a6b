"""`python echo.py RENDEZVOUS` serves and prints its ID, `python echo.py RENDEZVOUS ID [TEXT]` asks it."""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from punch.identity import PeerID
from punch.link.services import anyone
from punch.net.reactor import use_monotonic_time
from punch.node.node import Node
from punch.wire.control import Accept
from punch.wire.rendezvous_address import RendezvousAddress


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Ask(Protocol):
    def connectionMade(self):
        self.data, self.answered = b"", Deferred()

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.answered.callback(self.data)


async def ask(link, text):
    stream = await link.connect("echo/1", Factory.forProtocol(Ask))
    stream.transport.write(text.encode())
    stream.transport.loseWriteConnection()
    return (await stream.answered).decode()


async def main(reactor, rendezvous, peer=None, text="hello"):
    use_monotonic_time(reactor)
    node = Node(reactor=reactor, rendezvous=RendezvousAddress.parse(rendezvous), accept=Accept.ANYONE)
    node.serve("echo/1", Factory.forProtocol(Echo), anyone)
    node.startService()
    if peer is None:
        await node.when_registered()
        print(node.identity.peer_id, flush=True)
        await Deferred()  # until Ctrl-C
    link = await node.connect(PeerID.parse(peer))
    print(await ask(link, text))
    await node.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
