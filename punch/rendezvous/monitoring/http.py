"""
The HTTP server for operators, read-only: `/healthz`, `/metrics`, and the status as a page and as JSON.

It listens where `--metrics` says, by default on loopback only, and without the metrics on a UNIX socket in
the state directory. On loopback the `Host` of a request must be an
IP address or `localhost`, so that no web page gets an answer by a name that resolves to 127.0.0.1 (DNS
rebinding).

Every user of the machine can connect to a port on loopback. So there are few connections at a time. Of more,
the oldest is closed, since an answer takes only a moment. No request has a body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib.resources import files
from ipaddress import ip_address
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from punch.rendezvous.monitoring.status import STYLE, HealthReport, ServiceStatus, page

IDLE = 15.0
"""Seconds that an idle connection is kept."""
MAX_CONNECTIONS = 64
"""Connections at a time."""
STATUS_PATH = "/status.json"
_JSON = "application/json"
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Page(Protocol):
    """Answers requests for one path."""

    def __call__(self, request: Request) -> bytes | int: ...


def health_page(health: Callable[[], HealthReport]) -> Page:
    """
    Whether the service works: `{"status": …, "reasons": […]}`.

    The HTTP status is 200 while peers should use the service (`ok` and `degraded`), and 503 otherwise.
    """

    def answer(request: Request) -> bytes:
        report = health()
        if not report.status.serves:
            request.setResponseCode(HTTPStatus.SERVICE_UNAVAILABLE)
        request.setHeader("Content-Type", _JSON)
        return json.dumps(report.as_json()).encode() + b"\n"

    return answer


def status_pages(status: Callable[[], ServiceStatus]) -> dict[bytes, Page]:
    """The status page, its style, and the same as JSON, by their paths."""
    style = (files("punch.rendezvous.monitoring") / "static" / "status.css").read_bytes()

    def answer(request: Request) -> bytes:
        request.setHeader("Content-Type", "text/html; charset=utf-8")
        return page(status()).encode()

    def answer_style(request: Request) -> bytes:
        request.setHeader("Content-Type", "text/css; charset=utf-8")
        return style

    def answer_json(request: Request) -> bytes:
        request.setHeader("Content-Type", _JSON)
        return json.dumps(status().as_json()).encode() + b"\n"

    return {b"/": answer, STYLE.encode(): answer_style, STATUS_PATH.encode(): answer_json}


def metrics_page(read: Callable[[], None], resource: IResource) -> Page:
    """
    The metrics.

    :param read: takes the figures, in the reactor's thread.
    :param resource: what the client library answers with, in another thread.
    """

    def answer(request: Request) -> bytes | int:
        read()
        rendered: bytes | int = resource.render(request)
        return rendered

    return answer


class _Pages(Resource):
    """Answers all requests."""

    isLeaf = True

    def __init__(self, pages: Mapping[bytes, Page], *, local: bool) -> None:
        super().__init__()
        self._pages = pages
        self._local = local

    def render(self, request: Request) -> bytes | int:
        """Answer one request."""
        for name in ("server", "date"):
            request.responseHeaders.removeHeader(name)
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        # As bytes: if it were asked for as text, Twisted would fail at what is not UTF-8.
        host = (request.getHeader(b"host") or b"").decode("latin-1")
        if self._local and not _is_local(host):
            return _plain(request, HTTPStatus.MISDIRECTED_REQUEST, "Ask for an IP address or localhost.")
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return _plain(request, HTTPStatus.METHOD_NOT_ALLOWED, "Only GET.")
        found = self._pages.get(request.path)
        if found is None:
            names = ", ".join(path.decode("ascii") for path in self._pages)
            return _plain(request, HTTPStatus.NOT_FOUND, f"There is no such page. There are: {names}")
        return found(request)


class _StatusRequest(Request):
    """A request without a body. One that announces a body is dropped with its connection, unread."""

    def gotLength(self, length: int | None) -> None:
        # A long body would be written to a file before the request is answered.
        super().gotLength(0)
        if length != 0:
            cast(Any, self.channel.transport).abortConnection()


class MonitoringConnections(WrappingFactory[ProtocolWrapper]):
    """
    All connections to a site, `MAX_CONNECTIONS` at most.

    :param site: makes the protocol of the HTTP server for each.
    """

    protocol: Callable[..., ProtocolWrapper] = ProtocolWrapper
    noisy = False

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._open: dict[ProtocolWrapper, None] = {}
        """The oldest first."""

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper:
        """A protocol for one connection."""
        connection = super().buildProtocol(addr)
        self._open[connection] = None
        return connection

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        """A connection is open; the oldest may have to leave for it."""
        super().registerProtocol(p)
        while len(self._open) > MAX_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            cast(Any, oldest.transport).abortConnection()

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        """A connection is closed."""
        super().unregisterProtocol(p)
        self._open.pop(p, None)


class MonitoringSite(Site):
    """
    The pages as a site without an access log.

    :param pages: what answers, by path.
    :param local: whether it is reached from this machine only.
    """

    displayTracebacks = False
    noisy = False

    def __init__(self, pages: Mapping[bytes, Page], reactor: IReactorTime, *, local: bool) -> None:
        super().__init__(
            _Pages(pages, local=local), requestFactory=_StatusRequest, timeout=IDLE, reactor=reactor
        )

    def log(self, request: HTTPRequest) -> None:
        """Write nothing."""


def _is_local(host: str) -> bool:
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _plain(request: Request, status: HTTPStatus, text: str) -> bytes:
    request.setResponseCode(status, status.phrase.encode())
    request.setHeader("Content-Type", "text/plain; charset=utf-8")
    return text.encode() + b"\n"
