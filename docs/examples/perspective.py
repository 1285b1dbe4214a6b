"""
Remote objects with Perspective Broker over any stream.

    python perspective.py serve punch:service=notes:allow=bob           # alice keeps notes
    python perspective.py add punch:alice:service=notes "buy bread"     # bob adds one, and reads all
"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.task import react
from twisted.spread.pb import PBClientFactory, PBServerFactory, Root


class Notes(Root):
    """What others may call."""

    def __init__(self):
        self.notes = []

    def remote_add(self, text):
        self.notes.append(text)

    def remote_all(self):
        return self.notes


async def serve(reactor, endpoint):
    port = await serverFromString(reactor, endpoint).listen(PBServerFactory(Notes()))
    print(port.getHost(), flush=True)
    await Deferred()  # until Ctrl-C


async def add(reactor, endpoint, text):
    factory = PBClientFactory()
    await clientFromString(reactor, endpoint).connect(factory)
    notes = await factory.getRootObject()
    await notes.callRemote("add", text)
    print("\n".join(await notes.callRemote("all")))
    factory.disconnect()


def main(reactor, action, *arguments):
    return Deferred.fromCoroutine({"serve": serve, "add": add}[action](reactor, *arguments))


if __name__ == "__main__":
    react(main, sys.argv[1:])
