"""
An SSH client with Conch, over any stream: runs a command of ssh_server.py.
It needs `pip install 'twisted[conch]'`.

    python ssh_client.py punch:alice:service=ssh times
"""

import sys

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.task import react


class Run(SSHChannel):
    name, answer = b"session", b""

    def channelOpen(self, data):
        self.conn.sendRequest(self, b"exec", NS(self.conn.transport.command))

    def dataReceived(self, data):
        self.answer += data

    def closed(self):
        self.conn.transport.done.callback(self.answer.decode())


class Connection(SSHConnection):
    def serviceStarted(self):
        self.openChannel(Run(conn=self))


class Client(SSHClientTransport):
    def __init__(self, command):
        self.command, self.done = command, Deferred()

    def verifyHostKey(self, key, fingerprint):
        return succeed(True)  # The link has proved who is there

    def connectionSecure(self):
        login = SSHUserAuthClient(b"user", Connection())
        login.getPassword = lambda prompt=None: succeed(b"")
        self.requestService(login)


async def main(reactor, endpoint, command):
    client = Client(command.encode())
    await connectProtocol(clientFromString(reactor, endpoint), client)
    print(await client.done, end="")


if __name__ == "__main__":
    react(main, sys.argv[1:])
