"""
HTTP over a link, with Twisted's own web server and treq (`pip install treq`).

    twistd -n web --path . --listen punch:service=web:allow=bob      # serves files to bob
    python fetch.py http://alice/file.txt                            # bob fetches one of alice

The host of the URL is a name of the address book, or an ID.
"""

import sys

import treq
from treq.client import HTTPClient
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.task import react
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer


@implementer(IAgentEndpointFactory)
class Peers:
    """Connects to the service "web" of the peer that a URL names."""

    def __init__(self, reactor, options):
        self.reactor = reactor
        self.options = options

    def endpointForURI(self, uri):
        who = quoteStringArgument(uri.host.decode())
        return clientFromString(self.reactor, f"punch:{who}:service=web{self.options}")


async def main(reactor, url, options=""):
    """`options` are more keys of the endpoint, such as ":identity=bob"."""
    client = HTTPClient(Agent.usingEndpointFactory(reactor, Peers(reactor, options)))
    response = await client.get(url)
    await treq.collect(response, sys.stdout.buffer.write)
    if response.code != 200:
        raise SystemExit(f"{response.code} {response.phrase.decode()}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
