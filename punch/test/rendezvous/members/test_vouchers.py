"""Members who vouch for keys that are no members: what these may do, and what counts for the member."""

from __future__ import annotations

from typing import Any

from punch.identity import Identity
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.members.access import MAX_GUESTS
from punch.rendezvous.members.database import MemberDatabase
from punch.rendezvous.members.lists import DenyList
from punch.rendezvous.members.membership import VOUCHER_BURST, VOUCHER_RATE, AdmitPolicy, Membership
from punch.test.rendezvous.control_client import RecordingControlClient
from punch.test.rendezvous.registry.test_registry import envelope
from punch.test.rendezvous.test_service import RendezvousCase
from punch.wire.control import Accept, Establish, Ping, Register, RenewRelays, Revoke


class VoucherCase(RendezvousCase):
    limits = RendezvousLimits(calls_per_caller=2, message_burst=20, registrations_per_address=512)
    policy = AdmitPolicy.LISTED
    relay_for_invited = False

    def setUp(self) -> None:
        super().setUp()
        self.store = MemberDatabase(None)
        self.addCleanup(self.store.close)
        self.members = self.membership = Membership(
            self.policy,
            self.store,
            service=bytes(4),
            listed=frozenset([self.alice.peer_id, self.bob.peer_id]),
            contact="ask Ann",
            relay_for_invited=self.relay_for_invited,
        )
        self.restart()
        self.guests = 0

    def guest(
        self, member: Identity, voucher: bytes | None = None
    ) -> tuple[Identity, RecordingControlClient]:
        """A new key that has tried to register, by default with the voucher of a member."""
        self.guests += 1
        key = self.key(f"guest {self.guests}")
        client = self.connect(key)
        shown = client.vouched(member, key) if voucher is None else voucher
        client.send(Register("code", Accept.ANYONE, voucher=shown))
        self.net.advance(0.5)
        return key, client

    def told(self, client: RecordingControlClient) -> tuple[Any, Any]:
        """The last line: its type or code, and why it is not admitted."""
        return client.last.get("code", client.last["type"]), client.last.get("refusal")


class VoucherTests(VoucherCase):
    """Where only the peers of a list may register."""

    def test_a_member_vouches(self) -> None:
        _, client = self.guest(self.alice)
        self.assertEqual(self.told(client), ("welcome", None))
        # The relay counts for the member.
        client.send(RenewRelays())
        alice = self.register(self.alice)
        self.net.advance(0.5)
        names = {
            relay["username"].partition(":")[2] for each in (client, alice) for relay in self.relays(each)
        }
        self.assertEqual(len(names), 1)

    def relays(self, client: RecordingControlClient) -> list[dict[str, Any]]:
        """All relays that a client was told of."""
        found = [relay for line in client.lines for relay in line.get("relays", ())]
        self.assertTrue(found)
        return found

    def test_a_stranger_vouches(self) -> None:
        _, client = self.guest(self.key("stranger"))
        self.assertEqual(self.told(client), ("denied", "not-listed"))
        self.assertEqual(client.last["contact"], "ask Ann")

    def test_only_on_its_connection(self) -> None:
        """A copy of a voucher is worth nothing, nor is one for another key, or with another signature."""
        key, first = self.guest(self.alice)
        copied = first.vouched(self.alice, key)
        again = self.connect(key)
        again.send(Register("code", Accept.ANYONE, voucher=copied))
        self.net.advance(0.5)
        self.assertEqual(self.told(again), ("forbidden", None))
        client = self.connect(self.key("other"))
        client.send(Register("code", Accept.ANYONE, voucher=client.vouched(self.alice, key)))
        self.net.advance(0.5)
        self.assertEqual(self.told(client), ("forbidden", None))
        forged = self.alice.peer_id.key + bytes(64)
        self.assertEqual(self.told(self.guest(self.alice, forged)[1]), ("forbidden", None))
        no_key = self.guest(self.alice, bytes([2]) + bytes(95))[1]
        self.assertEqual(self.told(no_key), ("forbidden", None))

    def test_who_is_denied(self) -> None:
        """The deny list is for a member who has signed. Nobody learns by another's ID who is on it."""
        self.service.deny(DenyList.of([self.alice.peer_id], []))
        self.assertEqual(self.told(self.guest(self.alice)[1])[0], "denied")
        for member in (self.alice, self.bob):
            client = self.guest(member, member.peer_id.key + bytes(64))[1]
            self.assertEqual(self.told(client)[0], "forbidden")

    def test_how_many_at_once(self) -> None:
        clients = [self.guest(self.alice)[1] for _ in range(MAX_GUESTS)]
        self.assertEqual({self.told(client)[0] for client in clients}, {"welcome"})
        self.assertEqual(self.told(self.guest(self.alice)[1])[0], "too-many")
        self.assertEqual(self.told(self.guest(self.bob)[1])[0], "welcome")
        clients[0].abort()
        self.net.advance(0.5)
        self.assertEqual(self.told(self.guest(self.alice)[1])[0], "welcome")

    def test_how_many_for_long(self) -> None:
        def one_more() -> Any:
            _, client = self.guest(self.alice)
            if client.ended is None:
                client.abort()
            return self.told(client)[0]

        found = [one_more() for _ in range(VOUCHER_BURST + 3)]
        self.assertEqual(found[:VOUCHER_BURST], ["welcome"] * VOUCHER_BURST)
        self.assertEqual(found[-1], "rate")
        self.assertEqual(self.told(self.guest(self.bob)[1])[0], "welcome")
        self.net.advance(1 / VOUCHER_RATE)
        self.assertEqual(one_more(), "welcome")

    def test_calls_and_messages_count_for_the_member(self) -> None:
        """However many keys a member vouches for, they share what it may do."""
        bob = self.bob.peer_id
        self.register(self.bob)
        clients = []
        for _ in range(3):
            _, client = self.guest(self.alice)
            client.send(Establish(f"{self.guests:032x}", bob, envelope(bob)))
            clients.append(client)
            self.net.advance(0.5)
        self.assertEqual([self.told(client)[0] for client in clients], ["welcome", "welcome", "too-many"])
        for client in clients:
            client.send(*[Ping()] * 10)
        self.net.advance(0.2)
        self.assertIn("rate", {self.told(client)[0] for client in clients})

    def test_no_revocation(self) -> None:
        """The keys of codes follow from their numbers: nobody may have one refused for ever."""
        key, client = self.guest(self.alice)
        client.send(Revoke.by(key))
        self.net.advance(0.5)
        self.assertEqual(self.told(client), ("forbidden", None))
        self.assertFalse(self.store.revoked())


class RelayVoucherTests(VoucherCase):
    """Where anybody may register, and only members use the relay."""

    policy = AdmitPolicy.OPEN
    relay_for_invited = True

    def relayed(self, member: Identity, voucher: bytes | None = None) -> tuple[bool, bool]:
        """Whether a new key gets relays, and whether it is told that there are some for members."""
        _, client = self.guest(member, voucher)
        self.assertEqual(self.told(client), ("welcome", None))
        relays, for_members = client.last.get("relays"), client.last.get("relays_for_members", False)
        client.abort()
        return bool(relays), for_members

    def test_who_gets_relays(self) -> None:
        """A key for which a member vouches. Others are registered, and told that members have relays."""
        self.assertEqual(self.relayed(self.alice, b""), (False, True))
        self.assertEqual(self.relayed(self.alice), (True, False))
        self.assertEqual(self.relayed(self.key("stranger")), (False, True))
        self.service.deny(DenyList.of([self.alice.peer_id], []))
        self.assertEqual(self.relayed(self.alice), (False, True))
        self.members.listed = frozenset()
        self.assertEqual(self.relayed(self.bob), (False, True))

    def test_forged(self) -> None:
        forged = self.alice.peer_id.key + bytes(64)
        self.assertEqual(self.told(self.guest(self.alice, forged)[1]), ("forbidden", None))

    def test_new_credentials(self) -> None:
        """They are the member's, too."""
        _, client = self.guest(self.alice)
        client.send(RenewRelays())
        self.net.advance(0.5)
        self.assertEqual(self.told(client)[0], "relay")
        self.assertTrue(client.last["relays"])

    def test_too_many(self) -> None:
        """Beyond what a member may vouch for, keys are registered without relays."""
        clients = [self.guest(self.alice)[1] for _ in range(MAX_GUESTS)]
        self.assertTrue(all(client.last["relays"] for client in clients))
        self.assertEqual(self.relayed(self.alice), (False, True))
        clients[0].abort()
        self.net.advance(0.5)
        relayed = [self.relayed(self.alice)[0] for _ in range(VOUCHER_BURST - MAX_GUESTS)]
        self.assertIn(False, relayed)
        self.assertTrue(self.relayed(self.bob)[0])

    def test_a_member_itself(self) -> None:
        """It needs no voucher, and one of somebody else changes nothing."""
        client = self.connect(self.alice)
        client.send(Register("alice", Accept.ANYONE, voucher=client.vouched(self.bob, self.alice)))
        self.net.advance(0.5)
        user = user_of_relays(client)
        self.assertEqual(user, user_of_relays(self.register(self.alice)))
        self.assertNotEqual(user, user_of_relays(self.register(self.bob)))

    def test_no_relay_at_all(self) -> None:
        """Then nobody has to say who vouches."""
        self.restart(relay=False)
        self.assertEqual(self.relayed(self.alice, b""), (False, False))


def user_of_relays(client: RecordingControlClient) -> str:
    """For whom its relays count, as they name it."""
    name: str = client.last["relays"][0]["username"]
    return name.partition(":")[2]
