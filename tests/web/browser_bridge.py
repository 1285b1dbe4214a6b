"""
Run a browser in a network namespace, whose debugging port is then also there on this side's loopback address.

    python tests/web/browser_bridge.py NAMESPACE COMMAND [ARGUMENT…]

Firefox is driven over TCP, and prints the port. Connections to the same port here are passed on to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import signal
import socket
import subprocess
import sys
import threading

CLONE_NEWNET = 0x40000000
LISTENING = re.compile(rb"listening on ws://127\.0\.0\.1:(\d+)")


def connect(namespace: str, port: int) -> socket.socket:
    """A connection to a port of the namespace, made by the calling thread, which moves there for ever."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"network namespace {namespace}")
    return socket.create_connection(("127.0.0.1", port))


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Copy all that comes, to its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for each in (source, target):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def bridge(namespace: str, client: socket.socket, port: int) -> None:
    """Join a connection with one to the browser."""
    browser = connect(namespace, port)
    threading.Thread(target=pass_on, args=(client, browser), daemon=True).start()
    pass_on(browser, client)


def serve(namespace: str, server: socket.socket, port: int) -> None:
    """Accept connections for ever."""
    while True:
        client, _ = server.accept()
        threading.Thread(target=bridge, args=(namespace, client, port), daemon=True).start()


def main() -> int:
    namespace, *command = sys.argv[1:]
    browser = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stderr=subprocess.PIPE)
    signal.signal(signal.SIGTERM, lambda *_: browser.terminate())
    assert browser.stderr is not None
    for line in browser.stderr:
        found = LISTENING.search(line)
        if found is not None:
            port = int(found[1])
            server = socket.create_server(("127.0.0.1", port))
            threading.Thread(target=serve, args=(namespace, server, port), daemon=True).start()
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
    return browser.wait()


if __name__ == "__main__":
    sys.exit(main())
