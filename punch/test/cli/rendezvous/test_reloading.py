"""The certificate that is read again on SIGHUP."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from punch.cli.rendezvous.reloading import CertificateFiles
from punch.rendezvous.config import ServerCertificate
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.tls import load_certificate
from punch.test.cli.rendezvous.test_tap import NOW, TapCase, issue


class CertificateFilesTests(TapCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = NOW
        self.used: list[ServerCertificate] = []
        self.reports: list[tuple[str, dict[str, object]]] = []
        self.complaints: list[str] = []
        self.paths = self.issue(90)
        first = load_certificate(*self.paths, "r.example", NOW).chain[0]
        self.files = CertificateFiles(
            *self.paths,
            "r.example",
            first,
            service=cast(RendezvousService, self),
            report=lambda event, **fields: self.reports.append((event, fields)),
            warn=self.complaints.append,
            clock=lambda: self.now,
        )

    def use_certificate(self, certificate: ServerCertificate) -> None:
        """Stand in for the service."""
        self.used.append(certificate)

    def issue(
        self, days: int, name: str = "r.example", begins: datetime = NOW - timedelta(days=1)
    ) -> tuple[Path, Path]:
        return issue(self.directory, name, begins=begins, ends=NOW + timedelta(days=days))

    def test_a_renewed_pair(self) -> None:
        self.assertIsNone(self.files.check())
        self.now = NOW + timedelta(days=84)
        self.assertEqual(self.files.check(), "The certificate ends on 2026-04-01.")
        self.issue(180)
        self.files.read_again()
        self.assertEqual(self.reports, [("certificate", {"until": "2026-06-30"})])
        self.assertEqual(len(self.used), 1)
        self.assertIsNone(self.files.check())
        self.assertEqual(self.complaints, [])
        self.now = NOW + timedelta(days=181)
        self.assertIn("peers refuse it", str(self.files.check()))

    def test_what_can_not_be_used(self) -> None:
        """The certificate before stays, and it is said, until the files are right."""
        chain, key = self.paths
        kept = chain.read_bytes()
        for spoil, word in (
            (lambda: (self.issue(90), chain.write_bytes(kept)), "is not the key of the first certificate"),
            (lambda: chain.write_bytes(b"nothing"), "no certificate in PEM form"),
            (lambda: key.unlink(), str(key)),
            (lambda: self.issue(-1, begins=NOW - timedelta(days=9)), "expired"),
            (lambda: self.issue(90, "other.example"), "is not for r.example"),
        ):
            spoil()
            self.files.read_again()
            event, fields = self.reports.pop()
            self.assertEqual(event, "certificate-failed")
            self.assertIn(word, str(fields["text"]))
            self.assertIn("The certificate that was read before stays in use.", str(fields["text"]))
            self.assertEqual(self.complaints.pop(), fields["text"])
            self.assertEqual(self.files.check(), fields["text"])
        self.assertEqual(self.used, [])
        self.issue(90)
        self.files.read_again()
        self.assertEqual(self.reports, [("certificate", {"until": "2026-04-01"})])
        self.assertIsNone(self.files.check())
