"""
The HTTP server of the page: twisted.web on loopback.

A request must have this server's own address in `Host`. That prevents DNS rebinding, in which the name of
another site resolves to 127.0.0.1. Everything about the chat goes over the WebSocket, which only a page of
this origin in a browser that was admitted can open. A Content-Security-Policy and other headers of the
responses forbid the page everything that it does not need.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from twisted.web.websocket import WebSocketProtocol, WebSocketResource

from punch.ui.web.admission import BrowserAdmission
from punch.ui.web.connections import PageConnection, PageConnections
from punch.ui.web.uploads import UploadedFile, UploadError, Uploads

LOOPBACK = "127.0.0.1"

#: Seconds after which an idle connection is closed.
IDLE = 15.0

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}

_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

# Addresses that can't belong to another site: they are of this machine, or of one that forwards a port to it.
_FORWARDED = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\]):\d{4,5}", re.ASCII)

# If the user has followed a link on another site, the browser does not send a `SameSite=Strict` cookie with
# the request of a redirect (303) either. A page that begins the next request itself counts as the same site.
_REDIRECT = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Punch</title>'
    '<meta http-equiv="refresh" content="0; url={target}"></html>'
)


class WebServer:
    """
    The page's server.

    :param admission: decides which browsers may open the page.
    :param make_socket: makes the protocol of a WebSocket.
    :param uploads: receives files from pages; None: none is received.
    :ivar files: the static files of the page, by name.
    """

    def __init__(
        self,
        reactor: Any,
        admission: BrowserAdmission,
        make_socket: Callable[[PageConnection], WebSocketProtocol],
        uploads: Uploads | None = None,
    ) -> None:
        self._uploads = uploads
        self._listening: IListeningPort | None = None
        self._reactor: IReactorTCP = reactor
        self.admission = admission
        self.files = _static_files()
        site = _Site(_Page(self, make_socket), reactor, self._begin_upload)
        self.connections = PageConnections(site, reactor)

    def listen(self, port: int) -> None:
        """
        Accept connections, from this machine only.

        :param port: 0 for any that is free.
        :raise CannotListenError: that port is taken.
        """
        self._listening = self._reactor.listenTCP(port, self.connections, interface=LOOPBACK)  # type: ignore[arg-type]

    @property
    def port(self) -> int:
        """The TCP port on which it listens."""
        assert self._listening is not None
        address = self._listening.getHost()
        assert isinstance(address, IPv4Address)
        return address.port

    @property
    def hosts(self) -> list[str]:
        """The values that `Host` may have."""
        return [f"{LOOPBACK}:{self.port}", f"localhost:{self.port}"]

    @property
    def cookie_name(self) -> str:
        """The name of the cookie. It contains the port, as browsers send cookies to all ports of a host."""
        return f"punch-{self.port}"

    def new_url(self) -> str:
        """Return an address with a new ticket, which admits one browser."""
        return f"http://{LOOPBACK}:{self.port}/?token={self.admission.ticket()}"

    def _is_of_page(self, request: Request, key: str) -> bool:
        """Whether a request was made by a page of this server, in a browser that was admitted."""
        host = _header(request, b"host")
        return (
            host in self.hosts
            and _header(request, b"origin") == f"http://{host}"
            and self.admission.trusts(_cookie(request, self.cookie_name), key)
        )

    def _begin_upload(self, request: Request, size: int) -> UploadedFile | None:
        """
        Begin to receive the file in the body of a request. Only the header has been read so far.

        Its name and time are in fields of the header that other sites can't send: a browser would first ask
        this server for permission (a CORS preflight), which it does not give.

        :return: None if the request is not from a page, or there are too many uploads.
        """
        if self._uploads is None or not self._is_of_page(request, _header(request, b"x-punch-key")):
            return None
        name, _, path = _header(request, b"x-punch-upload").partition("/")
        modified = _header(request, b"x-punch-modified")
        seconds = int(modified) / 1000 if modified.isascii() and modified.isdigit() else 0.0
        connection = request.channel.transport
        assert isinstance(connection, PageConnection)
        if not connection.begin_upload(size):
            return None
        channel = request.channel

        def pause() -> None:
            # The page is not to blame for the delay, so the connection does not count as idle.
            channel.setTimeout(None)
            connection.pause_reading()

        def resume() -> None:
            if connection not in self.connections.protocols:
                return
            channel.setTimeout(IDLE)
            connection.resume_reading()

        file = self._uploads.receive(name, unquote(path), seconds, size, pause, resume)

        def finished(outcome: Failure | None) -> Failure | None:
            connection.end_upload()
            return outcome

        file.finished.addBoth(finished)
        return file

    def stop(self) -> Any:
        """Close the port and all connections; the Deferred fires when the port is free."""
        self.connections.drop_all()
        return None if self._listening is None else self._listening.stopListening()


BeginUpload = Callable[[Request, int], "UploadedFile | None"]


class _Request(Request):
    """
    A request without a body, or with a file from a page. For any other body, the connection is dropped before
    the body is read.

    :ivar upload: the file that is being received; None: there is none.
    """

    def __init__(self, begin_upload: BeginUpload, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._begin_upload = begin_upload
        self.upload: UploadedFile | None = None

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)
        if length is not None and self.getHeader(b"x-punch-upload") is not None:
            self.upload = self._begin_upload(self, length)
        if length != 0 and self.upload is None:
            connection = self.channel.transport
            assert isinstance(connection, PageConnection)
            connection.drop()

    def handleContentChunk(self, data: bytes) -> None:
        if self.upload is not None:
            self.upload.write(data)

    def connectionLost(self, reason: Failure) -> None:
        if self.upload is not None:
            self.upload.abort()
        super().connectionLost(reason)


class _Site(Site):
    """The site of twisted.web. It writes no access log, which would contain tickets."""

    displayTracebacks = False
    noisy = False

    def __init__(self, resource: Resource, reactor: IReactorTime, begin_upload: BeginUpload) -> None:
        make_request = partial(_Request, begin_upload)
        super().__init__(resource, requestFactory=make_request, timeout=IDLE, reactor=reactor)

    def log(self, request: HTTPRequest) -> None:
        """Write nothing."""


class _Page(Resource):
    """Answers all requests."""

    isLeaf = True
    _log = Logger()

    def __init__(self, server: WebServer, make_socket: Callable[[PageConnection], WebSocketProtocol]) -> None:
        super().__init__()
        self._server = server
        self._files = server.files
        self._compressed = {name: gzip.compress(content, mtime=0) for name, content in server.files.items()}
        self._socket = WebSocketResource(_SocketFactory(make_socket))

    def render(self, request: Request) -> bytes | int:
        """Answer one request."""
        answer = self._answer(request)
        if request.method != b"HEAD" or isinstance(answer, int):
            return answer
        # Twisted would leave out the body itself, but would log that, with the address and so with a ticket.
        request.setHeader("Content-Length", str(len(answer)))
        return b""

    def _answer(self, request: Request) -> bytes | int:
        for name in ("server", "date"):
            request.responseHeaders.removeHeader(name)
        host = _header(request, b"host")
        if host not in self._server.hosts:
            return _plain(request, HTTPStatus.MISDIRECTED_REQUEST, self._wrong_host(host))
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        request.setHeader("Content-Security-Policy", _CONTENT_SECURITY_POLICY.format(host=host))
        if isinstance(request, _Request) and request.upload is not None:
            return self._finish_upload(request, request.upload)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader("Allow", "GET, HEAD")
            return _plain(request, HTTPStatus.METHOD_NOT_ALLOWED, "Only GET.")
        path = request.path
        if path == b"/":
            return self._index(request)
        if path == b"/ws":
            return self._open_socket(request, host)
        name = path[1:].decode("ascii", "replace")
        if name in self._files and not name.endswith(".html"):
            return self._file(request, name)
        return _plain(request, HTTPStatus.NOT_FOUND, "There is no such page.")

    def _finish_upload(self, request: Request, upload: UploadedFile) -> bytes | int:
        if request.method != b"POST" or request.path != b"/upload":
            upload.abort()
            return _plain(request, HTTPStatus.NOT_FOUND, "Files are sent to /upload.")
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def answer(status: HTTPStatus, text: str) -> None:
            if not gone:
                body = _plain(request, status, text)
                request.setHeader("Content-Length", str(len(body)))
                request.write(body)
                request.finish()

        def failed(failure: Failure) -> None:
            error = failure.value
            if isinstance(error, UploadError):
                answer(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
            else:
                self._log.failure("A file of a page could not be taken.", failure)
                answer(HTTPStatus.INTERNAL_SERVER_ERROR, "The file could not be taken; the log says more.")

        upload.finished.addCallbacks(lambda _: answer(HTTPStatus.OK, ""), failed)
        upload.end()
        return NOT_DONE_YET

    def _wrong_host(self, host: str) -> str:
        """Return the text for a request with another `Host`, which helps users who have forwarded a port."""
        if not _FORWARDED.fullmatch(host):
            return "This address is not Punch's."
        port = self._server.port
        return (
            f"This address is not Punch's: its page is at {LOOPBACK}:{port} only.\n\n"
            "Have you forwarded a port with ssh? Forward it from the same port of your own machine,\n\n"
            f"    ssh -L {port}:{LOOPBACK}:{port} HOST\n\n"
            f"and open the address that Punch has printed there, as it is: http://{LOOPBACK}:{port}/?token=...\n"
            f"If port {port} is taken on your machine, start Punch with --web-port and one that is free.\n"
        )

    def _index(self, request: Request) -> bytes:
        known = self._server.admission.knows(_cookie(request, self._server.cookie_name))
        if b"token" not in request.args:
            if known:
                return self._file(request, "index.html")
            return self._file(request, "locked.html", HTTPStatus.FORBIDDEN)
        if request.method == b"HEAD" or _header(request, b"sec-purpose") or _header(request, b"purpose"):
            # This is a preview or prefetch. It would use up the ticket.
            return _plain(request, HTTPStatus.SERVICE_UNAVAILABLE, "Open the page to see it.")
        tokens = request.args[b"token"]
        browser = self._server.admission.admit(tokens[0].decode("utf-8", "replace"))
        if browser is not None:
            request.addCookie(
                self._server.cookie_name, browser.cookie, path="/", httpOnly=True, sameSite="strict"
            )
            return self._redirect(request, f"/#key={browser.key}")
        if known:
            # The user has opened the printed address again, in the browser that was admitted by it.
            return self._redirect(request, "/")
        return self._file(request, "locked.html", HTTPStatus.FORBIDDEN)

    def _redirect(self, request: Request, target: str) -> bytes:
        if _header(request, b"sec-fetch-site") == "cross-site":
            request.setHeader("Content-Type", _TYPES["html"])
            return _REDIRECT.format(target=target).encode()
        request.setHeader("Location", target)
        return _plain(request, HTTPStatus.SEE_OTHER, "")

    def _open_socket(self, request: Request, host: str) -> bytes | int:
        admission = self._server.admission
        key = request.args.get(b"key", [b""])[0].decode("utf-8", "replace")
        if not admission.trusts(_cookie(request, self._server.cookie_name), key):
            return _plain(request, HTTPStatus.FORBIDDEN, "This browser was not let in.")
        if not self._server.connections.has_room:
            # This is checked before `Upgrade`, since a page that could not open a WebSocket sends a plain
            # request to learn the reason.
            return _plain(request, HTTPStatus.SERVICE_UNAVAILABLE, "There are too many pages open.")
        if request.method != b"GET" or _header(request, b"upgrade").lower() != "websocket":
            return _plain(request, HTTPStatus.UPGRADE_REQUIRED, "Only WebSockets.")
        if _header(request, b"origin") != f"http://{host}":
            return _plain(request, HTTPStatus.FORBIDDEN, "Another page may not use this one's WebSocket.")
        return self._socket.render_GET(request)

    def _file(self, request: Request, name: str, status: HTTPStatus = HTTPStatus.OK) -> bytes:
        content = self._files[name]
        request.setResponseCode(status, status.phrase.encode())
        request.setHeader("Content-Type", _TYPES[name.rpartition(".")[2]])
        request.setHeader("Vary", "Accept-Encoding")
        if _accepts_gzip(request):
            # Compression can't leak secrets here, as the files have none; it helps with slow forwarded ports.
            request.setHeader("Content-Encoding", "gzip")
            return self._compressed[name]
        return content


class _SocketFactory:
    """Makes the protocol of a WebSocket whose request was accepted."""

    def __init__(self, make_socket: Callable[[PageConnection], WebSocketProtocol]) -> None:
        self._make_socket = make_socket

    def buildProtocol(self, request: Request) -> WebSocketProtocol:
        connection = request.channel.transport
        assert isinstance(connection, PageConnection)
        connection.become_socket()
        return self._make_socket(connection)


def _static_files() -> dict[str, bytes]:
    directory = files("punch.ui.web") / "static"
    found = [each for each in directory.iterdir() if each.name.rpartition(".")[2] in _TYPES]
    # The page completes the words of a code while it is typed.
    found.append(files("punch.apps.codes") / "words.txt")
    return {each.name: each.read_bytes() for each in found}


def _accepts_gzip(request: Request) -> bool:
    """Whether the browser accepts a response in gzip (RFC 9110, section 12.5.3)."""
    for each in _header(request, b"accept-encoding").split(","):
        coding, _, weight = each.partition(";")
        if coding.strip().lower() == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", weight.strip()) is None
    return False


def _cookie(request: Request, name: str) -> str:
    value = request.getCookie(name.encode("ascii"))
    return "" if value is None else value.decode("utf-8", "replace")


def _header(request: Request, name: bytes) -> str:
    """
    Return the value of a header field, or "" if it is missing.

    :param name: the name as bytes, since Twisted returns the value as bytes then. Otherwise it decodes it as
        UTF-8, and fails if it is not.
    """
    value = request.getHeader(name)
    return "" if value is None else value.decode("latin-1")


def _plain(request: Request, status: HTTPStatus, text: str) -> bytes:
    request.setResponseCode(status, status.phrase.encode())
    request.setHeader("Content-Type", "text/plain; charset=utf-8")
    return text.encode()
