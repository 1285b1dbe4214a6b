"""A counter that peers share: each line that a granted peer sends is answered with how many came so far."""

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver


class Count(LineReceiver):
    def lineReceived(self, line):
        self.factory.count += 1
        self.sendLine(b"%d" % self.factory.count)


class CountFactory(ServerFactory):
    protocol = Count
    count = 0


class Increment(LineReceiver):
    """One line, one answer."""

    def connectionMade(self):
        self.answered = Deferred()
        self.sendLine(b"one more")

    def lineReceived(self, line):
        self.answered.callback(int(line))
        self.transport.loseConnection()


def serve(node):
    """Serve to those that the address book grants "counter/1"."""
    return node.serve("counter/1", CountFactory())


async def increment(link):
    """Count one more at the other side of a link."""
    stream = await link.connect("counter/1", ServerFactory.forProtocol(Increment))
    return await stream.answered
