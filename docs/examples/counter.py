"""
A counter for the peers that have a grant: each line is answered with how many came so far.

    python counter.py serve punch:service=counter      # alice counts, for those whom she allows
    python counter.py add punch:alice:service=counter  # bob counts one more

Alice allows bob to use it with `punch peers grant bob counter`.
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory, ServerFactory
from twisted.internet.task import react
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


async def serve(reactor, endpoint):
    port = await serverFromString(reactor, endpoint).listen(CountFactory())
    print(port.getHost(), flush=True)
    await Deferred()  # until Ctrl-C


async def add(reactor, endpoint):
    stream = await clientFromString(reactor, endpoint).connect(Factory.forProtocol(Increment))
    print(await stream.answered)


def main(reactor, action, endpoint):
    return Deferred.fromCoroutine({"serve": serve, "add": add}[action](reactor, endpoint))


if __name__ == "__main__":
    react(main, sys.argv[1:])
