"""
An SSH server with Conch, over any stream. It knows one command; ssh_client.py runs it.
Both need `pip install 'twisted[conch]'`.

    python ssh_server.py punch:service=ssh:allow=bob
"""

import sys
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.avatar import ConchUser
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.cred.credentials import IUsernamePassword
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react


class Commands(SSHSession):
    def request_exec(self, data):
        known = getNS(data)[0] == b"times"
        self.write(b"%.2f s\n" % time.process_time() if known else b"unknown command\n")
        self.loseConnection()
        return True


class AnyUser:
    """A portal that takes any user: the link has proved who is there."""

    def listCredentialsInterfaces(self):
        return [IUsernamePassword]

    def login(self, credentials, mind, interface):
        user = ConchUser()
        user.channelLookup[b"session"] = Commands
        return succeed((interface, user, lambda: None))


async def main(reactor, endpoint):
    server = SSHFactory()
    key = Key(Ed25519PrivateKey.generate())
    server.publicKeys, server.privateKeys = {key.sshType(): key.public()}, {key.sshType(): key}
    server.portal = AnyUser()
    print((await serverFromString(reactor, endpoint).listen(server)).getHost(), flush=True)
    await Deferred()  # until Ctrl-C


if __name__ == "__main__":
    react(main, sys.argv[1:])
