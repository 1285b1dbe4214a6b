"""Files that pages send: who may, what is kept, and what it costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

from punch.test.internet import InternetTestCase
from punch.test.ui.web.web_client import HTTPConnection, HTTPResponse, SimulatedBrowser
from punch.test.ui.web.web_server import EchoOwner
from punch.ui.command import CommandContext, CommandRefused
from punch.ui.web.admission import BrowserAdmission
from punch.ui.web.connections import MAX_UPLOADING, PLAIN_TIME
from punch.ui.web.server import WebServer
from punch.ui.web.socket import PageSocket
from punch.ui.web.uploads import IDLE_TIME, MAX_FILES, MAX_QUEUED, MAX_UPLOADS, UploadError, Uploads
from punch.ui.web.view import PageCommands

T = TypeVar("T")


class Disk:
    """Calls are made at once, or when a test says so; each may fail."""

    def __init__(self) -> None:
        self.slow = False
        self.waiting: list[Callable[[], object]] = []
        self.error: OSError | None = None

    def run(self, call: Callable[[], T], /) -> Deferred[T]:
        if self.error is not None and "append" in repr(call):
            error, self.error = self.error, None
            raised: Deferred[T] = Deferred()
            raised.errback(error)
            return raised
        if not self.slow:
            return maybeDeferred(call)
        done: Deferred[T] = Deferred()
        self.waiting.append(lambda: maybeDeferred(call).chainDeferred(done))
        return done

    def go_on(self) -> None:
        self.slow = False
        while self.waiting:
            self.waiting.pop(0)()


class UploadsTestCase(InternetTestCase):
    def setUp(self) -> None:
        self.net = self.internet()
        self.machine = self.net.host("machine", "192.0.2.1")
        self.disk = Disk()
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)
        (self.folder / "left by a process that was killed").mkdir()
        clock, owner = self.machine.reactor, EchoOwner()
        self.uploads = Uploads(
            self.folder / "uploads", self.disk.run, clock, self.net.random_bytes("uploads")
        )
        self.server = WebServer(
            clock,
            BrowserAdmission(self.net.random_bytes("tickets")),
            lambda connection: PageSocket(
                connection, clock, perform=owner.perform, joined=owner.joined, left=owner.left
            ),
            self.uploads,
        )
        self.server.listen(8080)
        self.addCleanup(self.server.stop)
        self.browser = SimulatedBrowser(self.net, self.machine, 8080)
        self.browser.enter(self.server.new_url())

    def headers(self, upload: str, path: str, **others: str) -> dict[str, str]:
        given = {
            "Origin": f"http://{self.browser.authority}",
            "X_Punch_Key": self.browser.key,
            "X_Punch_Upload": f"{upload}/{path}",
            "X_Punch_Modified": "1700000000500",
            **others,
        }
        return {name: value for name, value in given.items() if value}

    def put(self, upload: str, path: str, body: bytes, **others: str) -> HTTPResponse:
        headers = self.headers(upload, path, Content_Length=str(len(body)), **others)
        return self.browser.get("/upload", method="POST", body=body, **headers)

    def begin(self, upload: str, path: str, size: int, data: bytes) -> HTTPConnection:
        """A request whose body has begun."""
        connection = self.browser.connect()
        lines = ["POST /upload HTTP/1.1", f"Host: {self.browser.authority}", f"Cookie: {self.browser.cookie}"]
        headers = self.headers(upload, path, Content_Length=str(size))
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.write("\r\n".join([*lines, "", ""]).encode() + data)
        self.net.advance(0.1)
        return connection


class UploadTests(UploadsTestCase):
    def test_files_and_folders(self) -> None:
        """They have their names, content, and time of change, and are removed when they are not needed."""
        upload = self.uploads.begin(300_007, 3)
        content = (bytes(range(256)) * 1172)[:300_007]
        for path, body in (("a%20photo.jpg", content), ("folder/%E2%82%AC/x", b""), ("folder/y", b"")):
            with self.assertRaises(UploadError):
                self.uploads.take(upload)
            answer = self.put(upload, path, body)
            self.assertEqual((answer.status, answer.body), (200, b""))
        photo, folder = self.uploads.take(upload)
        self.assertEqual((photo.name, folder.name), ("a photo.jpg", "folder"))
        self.assertEqual((photo.read_bytes(), photo.stat().st_mtime), (content, 1700000000.5))
        self.assertEqual((folder / "\N{EURO SIGN}" / "x").read_bytes(), b"")
        self.assertEqual(photo.parent.stat().st_mode & 0o777, 0o700)
        self.uploads.remove(upload)
        self.assertEqual(list((self.folder / "uploads").iterdir()), [])

    def test_strangers(self) -> None:
        """
        Without cookie and key, from another origin, to another host, or without a length: the connection is
        dropped, and nothing is kept.
        """
        upload = self.uploads.begin(1, 1)
        other = SimulatedBrowser(self.net, self.machine, 8080)
        other.enter(self.server.new_url())
        for wrong in (
            {"Cookie": "", "cookie": ""},
            {"Cookie": other.cookie, "cookie": other.cookie},
            {"X_Punch_Key": "wrong"},
            {"X_Punch_Key": ""},
            {"Origin": "http://evil.example"},
            {"Origin": ""},
            {"Origin": "null"},
            {"host": "evil.example"},
            {"X_Punch_Upload": ""},
        ):
            headers = {**self.headers(upload, "x"), "Content_Length": "1", **wrong}
            given = {name: value for name, value in headers.items() if value}
            if "cookie" in given:
                given.pop("cookie")
            browser = SimulatedBrowser(self.net, self.machine, 8080)
            browser.cookie = "" if "cookie" in wrong else self.browser.cookie
            connection = browser.connect()
            host = given.pop("host", browser.authority)
            if browser.cookie:
                given["Cookie"] = browser.cookie
            lines = ["POST /upload HTTP/1.1", f"Host: {host}"]
            lines += [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
            connection.write("\r\n".join([*lines, "", ""]).encode() + b"x")
            self.net.advance(1.0)
            self.assertIsNotNone(connection.lost, wrong)
            self.assertEqual(bytes(connection.received), b"", wrong)
        headers = self.headers(upload, "x", Transfer_Encoding="chunked")
        answer = self.browser.connect()
        lines = ["POST /upload HTTP/1.1", f"Host: {self.browser.authority}", f"Cookie: {self.browser.cookie}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        answer.write("\r\n".join([*lines, "", "1\r\nx\r\n0\r\n\r\n"]).encode())
        self.net.advance(1.0)
        self.assertIsNotNone(answer.lost)
        self.assertEqual(list((self.folder / "uploads" / upload).iterdir()), [])

    def test_preflight(self) -> None:
        """Another site's page may not send these headers: its question is answered with no."""
        answer = self.browser.get(
            "/upload",
            method="OPTIONS",
            Origin="http://evil.example",
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="x-punch-key",
        )
        self.assertEqual(answer.status, 405)
        self.assertFalse([name for name in answer.headers if name.startswith("access-control")])

    def test_names(self) -> None:
        """A name that leads out of the folder, or is none, is refused with a sentence; nothing is written."""
        for path in ("..%2F..%2Fx", "%2Fetc%2Fx", "a/../b", "a//b", "a%00b", "", ".", "%FF" * 300, "x" * 300):
            upload = self.uploads.begin(1, 1)
            answer = self.put(upload, path, b"x")
            self.assertEqual(answer.status, 507, path)
            self.assertIn(b"name", answer.body)
            self.assertEqual(list((self.folder / "uploads" / upload).iterdir()), [])
            self.uploads.remove(upload)

    def test_twice_the_same_name(self) -> None:
        upload = self.uploads.begin(3, 3)
        self.assertEqual(self.put(upload, "x", b"1").status, 200)
        for path in ("x", "x/y"):
            answer = self.put(upload, path, b"2")
            self.assertEqual(answer.status, 507)
            self.assertIn(b"another file or folder of this name", answer.body)
        self.assertEqual((self.folder / "uploads" / upload / "x").read_bytes(), b"1")

    def test_other_requests_with_these_headers(self) -> None:
        upload = self.uploads.begin(1, 1)
        headers = self.headers(upload, "x", Content_Length="1")
        answer = self.browser.get("/elsewhere", method="POST", body=b"x", **headers)
        self.assertEqual(answer.status, 404)
        self.assertEqual(self.put(upload, "x", b"x").status, 507)

    def test_more_than_was_announced(self) -> None:
        upload = self.uploads.begin(3, 2)
        self.assertEqual(self.put(upload, "x", b"12").status, 200)
        self.assertEqual(self.put(upload, "y", b"12").status, 507)
        self.assertFalse((self.folder / "uploads" / upload / "y").exists())

    def test_the_disk(self) -> None:
        """Files that do not fit are refused before they come; a disk that fails meanwhile is named."""
        with self.assertRaises(UploadError) as caught:
            self.uploads.begin(2**52, 1)
        self.assertEqual(caught.exception.reason, "no-space")
        self.assertEqual(list((self.folder / "uploads").iterdir()), [])
        upload = self.uploads.begin(5, 1)
        self.disk.error = OSError(28, os.strerror(28))
        answer = self.put(upload, "x", b"12345")
        self.assertEqual(answer.status, 507)
        self.assertIn(os.strerror(28).encode(), answer.body)

    def test_a_slow_disk(self) -> None:
        """The page is made to wait: no more than a megabyte and what is under way is in memory."""
        size = 8 * MAX_QUEUED
        upload = self.uploads.begin(size, 1)
        self.disk.slow = True
        connection = self.begin(upload, "x", size, bytes(size))
        self.net.advance(60.0)
        path = self.folder / "uploads" / upload / "x"
        self.assertFalse(path.exists())
        while self.disk.waiting:
            self.disk.waiting.pop(0)()
            self.assertLessEqual(path.stat().st_size, size)
            self.net.advance(0.1)
        self.net.run_until(lambda: bool(connection.received), 5.0, "an answer")
        self.assertEqual(HTTPResponse(bytes(connection.received)).status, 200)
        self.assertEqual(path.stat().st_size, size)

    def test_a_page_that_goes_away(self) -> None:
        """What has come of the file is removed with the upload, a while later."""
        upload = self.uploads.begin(10, 1)
        connection = self.begin(upload, "x", 10, b"12345")
        connection.transport.abortConnection()  # type: ignore[union-attr]
        self.net.advance(1.0)
        with self.assertRaises(UploadError):
            self.uploads.take(upload)
        self.assertTrue((self.folder / "uploads" / upload).exists())
        self.net.advance(IDLE_TIME)
        self.assertFalse((self.folder / "uploads" / upload).exists())
        self.assertEqual(self.put(upload, "y", b"1").status, 507)

    def test_a_page_that_goes_away_while_the_disk_is_slow(self) -> None:
        """When the disk is done, nothing is left of the connection, nor of an upload that was discarded."""
        page = PageCommands(CommandContext(None, lambda: None), self.uploads)  # type: ignore[arg-type]
        self.net.advance(1.0)
        before = self.server.connections.plain_count
        for size in (10, 2 * MAX_QUEUED):
            upload = self.uploads.begin(size, 1)
            self.disk.slow = True
            connection = self.begin(upload, "folder/x", size, bytes(size - 1))
            connection.transport.abortConnection()  # type: ignore[union-attr]
            self.net.advance(1.0)
            page.perform("discard-upload", {"upload": upload})
            self.disk.go_on()
            self.net.advance(1.0)
            self.assertEqual(list((self.folder / "uploads").iterdir()), [], size)
            self.assertEqual(self.server.connections.plain_count, before, size)

    def test_discarding_what_is_sent_already(self) -> None:
        """The files stay until they are sent."""
        page = PageCommands(CommandContext(None, lambda: None), self.uploads)  # type: ignore[arg-type]
        upload = self.uploads.begin(1, 1)
        self.put(upload, "x", b"1")
        (path,) = self.uploads.take(upload)
        page.perform("discard-upload", {"upload": upload})
        self.assertEqual(path.read_bytes(), b"1")
        self.uploads.remove(upload)
        self.assertFalse(path.exists())

    def test_bounds(self) -> None:
        """So many uploads and so many files at a time; a file may take longer than other requests."""
        for files in (0, MAX_FILES + 1):
            with self.assertRaises(UploadError):
                self.uploads.begin(1, files)
        names = [self.uploads.begin(100, 1) for _ in range(MAX_UPLOADS)]
        with self.assertRaises(UploadError) as caught:
            self.uploads.begin(1, 1)
        self.assertEqual(caught.exception.reason, "too-many")
        coming = [self.begin(name, "x", 100, b"x") for name in (names * 2)[:MAX_UPLOADING]]
        for _ in range(4):
            self.net.advance(PLAIN_TIME / 3)
            for connection in coming:
                connection.write(b"x")
        self.assertEqual([connection.lost for connection in coming], [None] * MAX_UPLOADING)
        self.assertIsNotNone(self.begin(names[0], "y", 100, b"x").lost)

    def test_commands_of_a_page(self) -> None:
        """A page names an upload, and no paths of this machine."""
        page = PageCommands(CommandContext(None, lambda: None), self.uploads)  # type: ignore[arg-type]
        for fields in (
            {"paths": ["/etc/passwd"], "peer": "bob"},
            {"upload": "../../etc", "peer": "bob"},
            {"upload": 5, "peer": "bob"},
            {"upload": "abc"},
        ):
            with self.assertRaises(CommandRefused) as caught:
                page.perform("send-files", fields)
            self.assertEqual(caught.exception.code, "malformed", fields)
        kept = Path(self.mktemp()).absolute()
        with self.assertRaises(CommandRefused) as caught:
            page.perform("export", {"file": str(kept)})
        self.assertEqual((caught.exception.code, kept.exists()), ("malformed", False))
        for size in (None, -1, True, 1e3, "1"):
            with self.assertRaises(CommandRefused):
                page.perform("upload", {"size": size, "files": 1})
        answer = self.successResultOf(page.perform("upload", {"size": 1, "files": 1}))
        assert answer is not None
        self.successResultOf(page.perform("discard-upload", answer))
        self.assertEqual(list((self.folder / "uploads").iterdir()), [])
