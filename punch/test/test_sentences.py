"""What users are told of names, keys, addresses and files: each problem has a sentence of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from punch.contacts import AddressBookError, AddressBookProblem, UnknownPeer
from punch.identity import IdentityError, IdentityProblem, PeerIDError
from punch.names import BadPetname, PetnameProblem
from punch.sentences import Problem, sentence_of
from punch.state_files import IdentityInUse, StateError, StateProblem
from punch.test.apps.chat.chat_network import peer_id
from punch.wire.invitation import InvitationError
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError, RendezvousAddressProblem
from punch.wire.turn import TurnURI, TurnURIError, TurnURIProblem

PATH = Path("/state/a file")
FULL = OSError(28, "No space left on device")
BAD_NAME = BadPetname(PetnameProblem.FORM, "a b")
NO_KEY = IdentityError(IdentityProblem.NO_KEY)
KEY_CAUSES: dict[IdentityProblem, OSError | IdentityError] = {
    IdentityProblem.FILE: FULL,
    IdentityProblem.CONTENT: NO_KEY,
}
BOOK_CAUSES: dict[AddressBookProblem, Exception] = {
    AddressBookProblem.FILE: FULL,
    AddressBookProblem.NAME: BAD_NAME,
    AddressBookProblem.STATE: StateError(StateProblem.FILE, path=PATH, cause=FULL),
}
STATE_CAUSES: dict[StateProblem, Exception] = {
    StateProblem.FILE: FULL,
    StateProblem.KEY: IdentityError(IdentityProblem.MODE, PATH, mode=0o644),
    StateProblem.ADDRESS_BOOK: AddressBookError(AddressBookProblem.DAMAGED, path=PATH),
}
ADDRESS_CAUSES: dict[RendezvousAddressProblem, InvitationError | PeerIDError] = {
    RendezvousAddressProblem.INVITATION: InvitationError("There is a typo in the invitation."),
    RendezvousAddressProblem.PIN: PeerIDError("There is a typo in the pin."),
}


class SentenceTests(SynchronousTestCase):
    """There is a sentence for every problem."""

    def check(self, errors: Iterable[Problem]) -> None:
        """All have a sentence, and no two the same one."""
        sentences = [sentence_of(error) for error in errors]
        for sentence in sentences:
            self.assertTrue(sentence.isprintable() and len(sentence) > 20, sentence)
            self.assertNotIn("{", sentence)
            self.assertNotIn("None", sentence)
        self.assertEqual(len(set(sentences)), len(sentences), sentences)

    def test_names(self) -> None:
        self.check(BadPetname(problem, "name") for problem in PetnameProblem)

    def test_keys(self) -> None:
        self.check(
            IdentityError(problem, PATH, KEY_CAUSES.get(problem), 0o640) for problem in IdentityProblem
        )
        mode = sentence_of(IdentityError(IdentityProblem.MODE, PATH, mode=0o640))
        self.assertTrue(mode.endswith("(mode 0640). Run: chmod 600 '/state/a file'"), mode)

    def test_the_address_book(self) -> None:
        self.check(
            AddressBookError(problem, path=PATH, name="name", peer=peer_id(2), cause=BOOK_CAUSES.get(problem))
            for problem in AddressBookProblem
        )

    def test_the_state_directory(self) -> None:
        others = [problem for problem in StateProblem if problem is not StateProblem.IN_USE]
        self.check(
            [
                *(
                    StateError(problem, path=PATH, name="a/b", cause=STATE_CAUSES.get(problem))
                    for problem in others
                ),
                IdentityInUse("alice", ""),
                IdentityInUse("alice", "punch receive"),
            ]
        )

    def test_peers(self) -> None:
        near = UnknownPeer(name="bo", near=["bob", "bobby"])
        self.check([UnknownPeer(name="bo"), near])
        self.assertIn("Did you mean bob or bobby?", sentence_of(near))
        self.assertEqual(sentence_of(UnknownPeer(PeerIDError("A typo."))), "A typo.")

    def test_addresses(self) -> None:
        self.check(
            RendezvousAddressError(problem, "@", ADDRESS_CAUSES.get(problem))
            for problem in RendezvousAddressProblem
        )
        self.check(TurnURIError(problem, "@") for problem in TurnURIProblem)

    def test_what_is_long_is_cut(self) -> None:
        """Sentences repeat only the beginning of a long text that was typed."""
        text = "x" * 500
        addresses = ("{}://x", "x?{}", "[{}", "[{}]", "[::1]{}", "x:{}", "{}")
        for given in addresses:
            error = self.assertRaises(RendezvousAddressError, RendezvousAddress.parse, given.format(text))
            self.assertLess(len(sentence_of(error)), 200)
        for given in ("{}", "turns:x?transport={}", "turn:x?transport={}", "turn:x:{}"):
            uri_error = self.assertRaises(TurnURIError, TurnURI.parse, given.format(text))
            self.assertLess(len(sentence_of(uri_error)), 200)
