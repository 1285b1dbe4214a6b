"""The process that asks a router by UPnP, against routers that answer too much, too slowly, or nonsense."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from punch.net import upnp_child

Answer = Callable[[socket.socket, bytes], None]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n\r\n"
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"


def description(control: str = "/control") -> bytes:
    """What a router says about itself: the least that the library reads."""
    service = f"<service><serviceType>{SERVICE}</serviceType><controlURL>{control}</controlURL></service>"
    devices = ["InternetGatewayDevice", "WANDevice", "WANConnectionDevice"]
    text = f"<serviceList>{service}</serviceList>"
    for kind in reversed(devices):
        text = f"<device><deviceType>urn:schemas-upnp-org:device:{kind}:1</deviceType>{text}</device>"
        text = text if kind == devices[0] else f"<deviceList>{text}</deviceList>"
    return HEAD + f'<?xml version="1.0"?><root>{text}</root>'.encode()


def soap(action: str, fields: str = "") -> bytes:
    return (
        HEAD
        + f'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        f'<u:{action}Response xmlns:u="{SERVICE}">{fields}</u:{action}Response>'
        f"</s:Body></s:Envelope>".encode()
    )


def fault(code: int) -> bytes:
    return (
        b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\n"
        b"<s:Envelope><s:Body><s:Fault><detail><UPnPError>"
        b"<errorCode>%d</errorCode></UPnPError></detail></s:Fault></s:Body></s:Envelope>" % code
    )


class Router:
    """A web server on 127.0.0.1; `answer` writes the answer to each request."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.asked: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5.0)
                try:
                    self._take(connection)
                except OSError:
                    continue

    def _take(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request or (b"POST" in request[:4] and b"</s:Envelope>" not in request):
            more = connection.recv(65536)
            if not more:
                return
            request += more
        self.asked.append(request)
        self._answer(connection, request)

    def close(self) -> None:
        # The thread that waits in accept ends with it
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def router(answer: Answer) -> Iterator[Router]:
    server = Router(answer)
    try:
        yield server
    finally:
        server.close()


def start(server: Router, lifetime: int = 7200) -> subprocess.Popen[bytes]:
    """Ask it for a port."""
    found = find_spec("miniupnpc")
    assert found is not None
    assert found.origin is not None
    request = [f"http://127.0.0.1:{server.port}/x.xml", "UDP", "127.0.0.1", 40000, 40000, lifetime]
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            upnp_child.__file__,
            os.path.dirname(found.origin),
            json.dumps(request),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def says(server: Router, lifetime: int = 7200) -> dict[str, object]:
    output, _ = start(server, lifetime).communicate(timeout=upnp_child.TIME + 10)
    answer = json.loads(output)
    assert isinstance(answer, dict)
    return answer


def scripted(*errors: int, external: str = "203.0.113.5") -> Answer:
    """A router that answers requests for a port with these errors, and then with success."""
    left = list(errors)

    def answer(connection: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET"):
            connection.sendall(description())
        elif b"#AddPortMapping" in request:
            code = left.pop(0) if left else 0
            connection.sendall(fault(code) if code else soap("AddPortMapping"))
        elif b"#GetExternalIPAddress" in request:
            fields = f"<NewExternalIPAddress>{external}</NewExternalIPAddress>"
            connection.sendall(soap("GetExternalIPAddress", fields))
        else:
            connection.sendall(fault(714))

    return answer


@pytest.mark.parametrize(
    ("errors", "port", "lifetime"),
    [((), 40000, 7200), ((725,), 40000, 0), ((402,), 40000, 0), ((718,), None, 7200), ((501,), 40000, 0)],
)
def test_what_the_library_calls_the_errors(errors: tuple[int, ...], port: int | None, lifetime: int) -> None:
    """The library gives errors names in place of numbers. These are what `map_port` expects."""
    with router(scripted(*errors)) as server:
        answer = says(server)
    assert answer["host"] == "203.0.113.5"
    assert answer["lifetime"] == lifetime
    assert (answer["port"] == 40000) is (port == 40000)


def test_refusals() -> None:
    with router(scripted(606)) as server:
        assert says(server) == {"error": "Action not authorized"}
    with router(scripted()) as server:
        assert says(server, lifetime=0) == {"error": "NoSuchEntryInArray"}


def test_another_host() -> None:
    """A router that names a third party as the place where ports are mapped: it is not asked."""

    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(description("http://127.0.0.2:80/control"))

    with router(answer) as server:
        assert says(server) == {"error": "the router names another host"}
        assert len(server.asked) == 1


def test_malformed() -> None:
    """No answer that can be used, and an end in order."""
    for data in (b"", HEAD, HEAD + b"<root>", HEAD + b"\x00" * 5000, b"\xff" * 5000, HEAD + b"<a>" * 20_000):
        with router(lambda connection, request, data=data: connection.sendall(data)) as server:  # type: ignore[misc]
            assert "error" in says(server), data[:100]


def test_too_much_and_too_slowly() -> None:
    """An answer without end, at once or byte by byte, and silence: the process ends by itself."""

    def endless(connection: socket.socket, request: bytes) -> None:
        connection.sendall(HEAD)
        while True:
            connection.sendall(b"<x>" * 20_000)

    def slow(connection: socket.socket, request: bytes) -> None:
        connection.sendall(HEAD)
        while True:
            connection.sendall(b"<")
            time.sleep(0.2)

    def silent(connection: socket.socket, request: bytes) -> None:
        connection.recv(1)

    began = time.monotonic()
    with router(endless) as one, router(slow) as two, router(silent) as three:
        for process in [start(server) for server in (one, two, three)]:
            output, _ = process.communicate(timeout=upnp_child.TIME + 20)
            assert not output or "error" in json.loads(output), output
    assert time.monotonic() - began < upnp_child.TIME + 20
