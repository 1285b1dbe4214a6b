"""
Remote calls with AMP over any stream.

    python amp.py serve punch:service=sum:allow=bob      # alice adds for bob
    python amp.py ask punch:alice:service=sum 13 81      # bob has alice add
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.amp import AMP, Command, Integer


class Sum(Command):
    arguments = [(b"a", Integer()), (b"b", Integer())]
    response = [(b"total", Integer())]


class Adder(AMP):
    @Sum.responder
    def add(self, a, b):
        return {"total": a + b}


async def serve(reactor, endpoint):
    port = await serverFromString(reactor, endpoint).listen(Factory.forProtocol(Adder))
    print(port.getHost(), flush=True)
    await Deferred()  # until Ctrl-C


async def ask(reactor, endpoint, a, b):
    client = await clientFromString(reactor, endpoint).connect(Factory.forProtocol(AMP))
    print((await client.callRemote(Sum, a=int(a), b=int(b)))["total"])


def main(reactor, action, *arguments):
    return Deferred.fromCoroutine({"serve": serve, "ask": ask}[action](reactor, *arguments))


if __name__ == "__main__":
    react(main, sys.argv[1:])
