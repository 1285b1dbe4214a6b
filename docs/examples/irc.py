"""
IRC with Twisted's own server and client over any stream. The address book of alice has bob and carol.

    python irc.py serve punch:service=irc:allow=bob,carol                   # the server of alice
    python irc.py say punch:alice:service=irc bob "hello, everybody"         # bob says something there
"""

import sys

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.words.protocols.irc import IRCClient
from twisted.words.service import InMemoryWordsRealm, IRCFactory
from zope.interface import implementer


@implementer(ICredentialsChecker)
class NoPassword:
    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials):
        return credentials.username


class Speaker(IRCClient):
    def __init__(self, nickname, text):
        self.nickname, self.password, self.text = nickname, nickname, text
        self.said = Deferred()

    def signedOn(self):
        self.join("punch")
        self.say("punch", self.text)
        self.sendLine("WHO #punch")

    def irc_RPL_WHOREPLY(self, prefix, params):
        self.said.callback(f"{self.nickname} on {params[1]}: {self.text}")


async def serve(reactor, endpoint):
    realm = InMemoryWordsRealm("punch")
    realm.createGroupOnRequest = True
    factory = IRCFactory(realm, Portal(realm, [NoPassword()]))
    print((await serverFromString(reactor, endpoint).listen(factory)).getHost(), flush=True)
    await Deferred()  # until Ctrl-C


async def say(reactor, endpoint, nickname, text):
    speaker = Speaker(nickname, text)
    await clientFromString(reactor, endpoint).connect(Factory.forProtocol(lambda: speaker))
    print(await speaker.said)
    speaker.quit("done")


if __name__ == "__main__":
    react(lambda reactor, what, *rest: globals()[what](reactor, *rest), sys.argv[1:])
