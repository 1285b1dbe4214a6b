"""The certificate of `--certificate` and `--key` while the service runs: read again on SIGHUP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from twisted.logger import Logger

from punch.rendezvous.control.sessions import ServiceReport
from punch.rendezvous.service import RendezvousService
from punch.rendezvous.tcp.tls import CertificateProblem, load_certificate

EARLY = timedelta(days=7)
"""How long before its end a certificate is a reason for `/healthz`; authorities' clients renew it earlier."""


class CertificateFiles:
    """
    Reads the files again, and knows what is wrong with them.

    :param host: the name by which peers find the service, which the certificate must be for.
    :param first: the certificate that the service has started with.
    :param report: called with the events `certificate` (until) and `certificate-failed` (text).
    :param warn: called with a sentence for the operator.
    :param clock: returns the time as an aware datetime.
    """

    _log = Logger()

    def __init__(
        self,
        certificate: Path,
        key: Path,
        host: str | None,
        first: x509.Certificate,
        *,
        service: RendezvousService,
        report: ServiceReport,
        warn: Callable[[str], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._host = host
        self._ends = first.not_valid_after_utc
        self._service = service
        self._report = report
        self._warn = warn
        self._clock = clock
        self._problem: str | None = None

    def read_again(self) -> None:
        """Use what the files hold now. If they can't be used, the certificate before stays."""
        try:
            found = load_certificate(self._certificate, self._key, self._host, self._clock())
            self._service.use_certificate(found)
        except (CertificateProblem, ValueError) as problem:
            text = self._problem = f"{problem} The certificate that was read before stays in use."
            self._log.error("{text}", text=text)
            self._report("certificate-failed", text=text)
            self._warn(text)
            return
        self._problem = None
        self._ends = found.chain[0].not_valid_after_utc
        until = f"{self._ends:%Y-%m-%d}"
        self._log.info("certificate read, good until {until}", until=until)
        self._report("certificate", until=until)

    def check(self) -> str | None:
        """What is wrong with the certificate, for `/healthz`."""
        left = self._ends - self._clock()
        if left < timedelta():
            return f"The certificate ended on {self._ends:%Y-%m-%d}, and peers refuse it."
        if self._problem is not None:
            return self._problem
        return f"The certificate ends on {self._ends:%Y-%m-%d}." if left < EARLY else None
