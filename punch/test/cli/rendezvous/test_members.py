"""The commands of the operator: invitations, members and revocations."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from punch.cli.rendezvous.members import main
from punch.rendezvous.members.database import FILE_NAME, MemberDatabase
from punch.rendezvous.members.membership import Redemption
from punch.state import StateDirectory
from punch.test.rendezvous.registry.test_registry import ALICE, BOB, CAROL
from punch.wire.invitation import AdmissionRefusal, Invitation, service_tag
from punch.wire.rendezvous_address import RendezvousAddress, invitation_in, pin_of


class CommandTests(SynchronousTestCase):
    """The commands on a state directory whose service does not run."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp())
        self.state = StateDirectory(self.root).rendezvous

    def run_command(self, command: str, *options: str) -> tuple[int, str, str]:
        """The exit status, and what went to stdout and stderr."""
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                status = main(command, ["--state-dir", str(self.root), *options])
            except SystemExit as end:
                status = int(str(end.code))
        return status, out.getvalue(), error.getvalue()

    def test_without_a_rendezvous(self) -> None:
        """A mistyped directory is not made."""
        status, _, error = self.run_command("invite")
        self.assertEqual(status, 1)
        self.assertIn("No rendezvous has run", error)
        self.assertFalse(self.root.exists())

    def test_invite(self) -> None:
        pin = pin_of(self.state.identity().private_key.public_key())
        status, out, _ = self.run_command("invite", "--json", "--uses", "3", "--relay-quota", "10G")
        made = json.loads(out)
        self.assertEqual((status, made["uses"], made["relay_quota"]), (0, 3, 10**10))
        self.assertIsNone(made["address"])
        self.assertEqual(Invitation.parse(made["token"]).service, service_tag(pin))
        address = RendezvousAddress("example.org", 7001, pin)
        (self.state.directory / "public-address").write_text(f"{address}\n")
        _, out, _ = self.run_command("invite")
        self.assertIn(f"{address}?token=", out)

    def test_invite_to_several_servers(self) -> None:
        """All of them are in what is sent, or a domain that names them, and the pin covers all."""
        pin = pin_of(self.state.identity().private_key.public_key())
        shown = RendezvousAddress("one.example.org", 7001, pin)
        (self.state.directory / "public-address").write_text(f"{shown}\n")
        for given, hosts in (
            ("one.example.org:7001,two.example.org:7001", ["one.example.org", "two.example.org"]),
            (f"example.org,{shown}", ["example.org", "one.example.org"]),
            ("example.org", ["example.org"]),
        ):
            made = json.loads(self.run_command("invite", "--json", "--address", given)[1])
            found = RendezvousAddress.parse_all(made["address"])
            self.assertEqual([(each.host, each.pin) for each in found], [(host, pin) for host in hosts])
            self.assertEqual(invitation_in(found), made["token"])
            self.assertIn("--rendezvous 'punch://", self.run_command("invite", "--address", given)[1])
        other = RendezvousAddress("two.example.org", 7001, bytes(32))
        status, out, error = self.run_command("invite", "--address", str(other))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("not that of this rendezvous", error)
        count = len(json.loads(self.run_command("invitations", "--json")[1])["invitations"])
        self.assertEqual(count, 6, "nothing is made if the address is wrong")

    def test_invite_to_other_addresses_before_the_service_has_run(self) -> None:
        """It is not known yet whether they have a pin. Nothing is made."""
        self.state.identity()
        for given in ("example.org", RendezvousAddress("example.org", 7001, bytes(32))):
            status, out, error = self.run_command("invite", "--address", str(given))
            self.assertEqual((status, out), (1, ""))
            self.assertIn("has not run yet", error)
        self.assertEqual(json.loads(self.run_command("invitations", "--json")[1])["invitations"], [])

    def test_a_pin_beside_the_certificate_of_an_authority(self) -> None:
        """No pin belongs to the address of such a service."""
        pin = pin_of(self.state.identity().private_key.public_key())
        shown = RendezvousAddress("one.example.org", 7001)
        (self.state.directory / "public-address").write_text(f"{shown}\n")
        given = RendezvousAddress("example.org", 7001, pin)
        status, out, error = self.run_command("invite", "--address", str(given))
        self.assertEqual((status, out), (1, ""))
        self.assertIn("certificate of an authority", error)
        made = json.loads(self.run_command("invite", "--json", "--address", "example.org")[1])
        self.assertEqual(RendezvousAddress.parse(made["address"]).pin, None)

    @skipUnless(hasattr(os, "mkfifo"), "needs named pipes")
    def test_an_address_that_is_no_file(self) -> None:
        """Nothing is read from a named pipe, which might have no other end; the invitation is printed."""
        self.state.identity()
        path = self.state.directory / "public-address"
        os.mkfifo(path)
        status, out, _ = self.run_command("invite")
        self.assertEqual(status, 0)
        self.assertIn("it is a named pipe", out)
        self.assertIn("?token=", out)
        path.unlink()
        path.write_text("no address\n")
        self.assertIn("has no address", self.run_command("invite")[1])

    def test_invitations(self) -> None:
        """Those that can be used are listed; one that has leaked is revoked by its number or its token."""
        pin = pin_of(self.state.identity().private_key.public_key())
        self.assertIn("punch rendezvous invite", self.run_command("invitations")[1])
        tokens = []
        for options in (("--uses", "3", "--relay-quota", "10G"), ("--expires", "30m"), ()):
            made = json.loads(self.run_command("invite", "--json", *options)[1])
            tokens.append(Invitation.parse(made["token"]))
            self.assertEqual(made["number"], tokens[-1].number.hex())
        numbers = [each.number.hex() for each in tokens]
        database = MemberDatabase(self.state.directory / FILE_NAME)
        self.addCleanup(database.close)
        now = time.time()
        self.assertIs(database.redeem(tokens[0], ALICE, "alice", now), Redemption.ACCEPTED)
        self.assertIs(database.redeem(tokens[2], BOB, "bob", now), Redemption.ACCEPTED)
        listed = json.loads(self.run_command("invitations", "--json")[1])["invitations"]
        self.assertEqual(
            [(each["number"], each["uses"], each["used"], each["relay_quota"]) for each in listed],
            [(numbers[1], 1, 0, None), (numbers[0], 3, 1, 10**10)],
        )
        text = self.run_command("invitations")[1]
        self.assertIn(f"{numbers[0]}  2 of 3 uses left", text)
        self.assertNotIn(numbers[2], text)
        self.assertIn(f"{numbers[2]}  used up", self.run_command("invitations", "--all")[1])
        self.assertNotIn(str(tokens[0]), text)
        self.assertIn(f"invitation {numbers[0]}", self.run_command("peers")[1])

        status, out, _ = self.run_command("revoke", numbers[0].upper())
        self.assertEqual((status, "peer that has used it stays" in out), (0, True))
        self.assertEqual(self.run_command("revoke", str(tokens[1]))[0], 0)
        for token in tokens[:2]:
            self.assertIs(database.redeem(token, CAROL, "carol", now), Redemption.EXPIRED)
        self.assertTrue(database.is_member(ALICE))
        self.assertEqual(json.loads(self.run_command("invitations", "--json")[1])["invitations"], [])
        self.assertIn(f"{numbers[0]}  revoked", self.run_command("invitations", "--all")[1])
        status, out, _ = self.run_command("revoke", "--json", numbers[0])
        self.assertEqual(
            (status, json.loads(out)), (0, {"event": "invitation-revoked", "number": numbers[0]})
        )
        for words, part in (
            (["0" * 12], "no invitation"),
            ([str(Invitation.new(service_tag(pin), os.urandom))], "no invitation"),
            (["--undo", numbers[0]], "can't be undone"),
        ):
            status, _, error = self.run_command("revoke", *words)
            self.assertEqual(status, 1)
            self.assertIn(part, error)

    def test_revoke_and_undo(self) -> None:
        self.state.identity()
        self.assertEqual(self.run_command("revoke", str(ALICE))[0], 0)
        self.assertIn("revoked by the operator", self.run_command("peers")[1])
        self.assertEqual(self.run_command("revoke", "--undo", str(ALICE))[0], 0)
        status, _, error = self.run_command("revoke", "--undo", str(ALICE))
        self.assertEqual(status, 1)
        self.assertIn("was not revoked", error)
        database = MemberDatabase(self.state.directory / FILE_NAME)
        database.revoke(ALICE, AdmissionRefusal.ID_REVOKED, 0.0)
        database.close()
        self.assertIn("can't be undone", self.run_command("revoke", "--undo", str(ALICE))[2])
        status, _, error = self.run_command("revoke", "alice")
        self.assertEqual(status, 2)
        self.assertIn("'alice' is no peer ID", error)
        self.assertNotIn("typo", error)
        for wrong in (str(ALICE)[:-1], "alice", ""):
            status, out, error = self.run_command("revoke", "--json", wrong)
            self.assertEqual((status, json.loads(out)["reason"]), (2, "usage"))
            self.assertIn("peer ID", error)

    def test_usage(self) -> None:
        self.state.identity()
        self.assertIn("nothing", self.run_command("usage")[1])
        today = int(time.time()) // 86_400
        database = MemberDatabase(self.state.directory / FILE_NAME)
        database.add_usage(today - 1, {ALICE: 1_500_000}, {})
        database.close()
        self.assertIn(f"{ALICE}  1.5 MB", self.run_command("usage", "--days", "3")[1])
        (entry,) = json.loads(self.run_command("usage", "--json", "--days", "3")[1])["usage"]
        self.assertEqual((entry["peer"], entry["bytes"]), (str(ALICE), 1_500_000))

    def test_wrong_values(self) -> None:
        self.state.identity()
        for command, options, part in (
            ("invite", ["--relay-quota", "0"], "--relay-quota"),
            ("invite", ["--relay-quota=-1G"], "--relay-quota"),
            ("invite", ["--relay-quota", "9999999T"], "--relay-quota"),
            ("invite", ["--uses", "0"], "--uses"),
            ("invite", ["--uses", "1000000"], "--uses"),
            ("invite", ["--expires", "7"], "--expires"),
            ("invite", ["--address", "exa mple.org"], "--address"),
            ("revoke", [], "ID"),
            ("usage", ["--days", "0"], "--days"),
            ("peers", ["x"], "unexpected argument"),
        ):
            status, out, error = self.run_command(command, *options)
            self.assertEqual((status, out), (2, ""), options)
            self.assertIn(part, error)
            self.assertEqual(len(error.strip().splitlines()), 1, error)
