"""
Networks of real kernels: namespaces joined by Ethernet, with nftables NATs.

A `Namespaces` owns everything it makes and removes all of it at the end, also after a failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

_numbers = itertools.count()
_CLONE_NEWNET = 0x40000000


def run(*arguments: str, text: str | None = None) -> str:
    """Run a command to its end; an error shows what it printed."""
    done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr or done.stdout}")
    return done.stdout


def remove(namespace: str) -> None:
    """End all that runs in a network namespace, and the namespace."""
    pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in pids.stdout.split():
        subprocess.run(["kill", "-9", pid], check=False)
    subprocess.run(["ip", "netns", "del", namespace], check=False)


def remove_orphans() -> None:
    """Remove the namespaces of processes that were killed before they could remove them."""
    for line in run("ip", "netns", "list").splitlines():
        match = re.match(r"punch(\d+)-", line)
        if match is not None and not os.path.exists(f"/proc/{match[1]}"):
            remove(line.split()[0])


@contextlib.contextmanager
def entered(host: Host) -> Iterator[None]:
    """What this thread opens and starts meanwhile is in the network namespace of a host."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{host.name}") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(before.fileno())


class Host:
    """One namespace: a host, a router, or a switch."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """Put before a command's words, this runs it here."""
        return ["ip", "netns", "exec", self.name]

    def run(self, *arguments: str, text: str | None = None) -> str:
        return run(*self.prefix, *arguments, text=text)

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", text=rules)

    def route(self, via: str) -> None:
        self.run("ip", "route", "add", "default", "via", via)

    def settle(self, timeout: float = 20.0) -> None:
        """Wait until every interface has the addresses that it gives itself (RFC 4862, section 5.4)."""
        deadline = time.monotonic() + timeout
        while "inet6" in self.run("ip", "-6", "address", "show", "tentative"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} still looks for duplicates of its addresses")
            time.sleep(0.05)

    def sysctl(self, *settings: str) -> None:
        for setting in settings:
            self.run("sysctl", "-qw", setting)


class Namespaces:
    """Network namespaces, named after this process so that several tests can run side by side."""

    def __init__(self) -> None:
        remove_orphans()
        self._tag = f"punch{os.getpid()}-{next(_numbers)}"
        self._interfaces = itertools.count()
        self.hosts: list[Host] = []

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in reversed(self.hosts):
            remove(host.name)

    def host(self, name: str) -> Host:
        host = Host(f"{self._tag}-{name}")
        self.hosts.append(host)
        return host

    def switch(self, name: str) -> Host:
        """A namespace that holds one bridge, `br0`."""
        switch = self.host(name)
        switch.run("ip", "link", "add", "br0", "type", "bridge")
        switch.run("ip", "link", "set", "br0", "up")
        return switch

    def plug(self, host: Host, switch: Host, interface: str, *addresses: str) -> None:
        """A cable from `host` to `switch`; `addresses` with their prefix length."""
        far = f"port{next(self._interfaces)}"
        run(
            "ip",
            "link",
            "add",
            interface,
            "netns",
            host.name,
            "type",
            "veth",
            "peer",
            "name",
            far,
            "netns",
            switch.name,
        )
        switch.run("ip", "link", "set", far, "master", "br0", "up")
        for address in addresses:
            flags = ["nodad"] if ":" in address else []
            host.run("ip", "address", "add", address, "dev", interface, *flags)
        host.run("ip", "link", "set", interface, "up")

    def join(self, one: Host, interface: str, other: Host, other_interface: str) -> None:
        """A cable between two hosts, both ends up."""
        ends = ["netns", one.name, "type", "veth", "peer", "name", other_interface, "netns", other.name]
        run("ip", "link", "add", interface, *ends)
        one.run("ip", "link", "set", interface, "up")
        other.run("ip", "link", "set", other_interface, "up")

    def nat(self, name: str, public: Host, public_address: str, lan: Host, lan_address: str) -> Host:
        """A home router: masquerades what leaves its `wan`, drops what nobody inside asked for."""
        router = self.host(name)
        self.plug(router, public, "wan", public_address)
        self.plug(router, lan, "lan", lan_address)
        router.sysctl("net.ipv4.ip_forward=1")
        router.nft(
            """
            table ip nat {
                chain post { type nat hook postrouting priority 100; oifname "wan" masquerade; }
            }
            table ip filter {
                chain input {
                    type filter hook input priority 0;
                    iifname "wan" ct state established,related accept
                    iifname "wan" drop
                }
                chain forward {
                    type filter hook forward priority 0;
                    iifname "wan" ct state new drop
                }
            }
            """
        )
        return router


class Capture:
    """All packets that cross one interface, to a file (tcpdump)."""

    def __init__(self, host: Host, interface: str, path: str, options: Sequence[str] = ()) -> None:
        self.path = path
        self._process = subprocess.Popen(
            [
                *host.prefix,
                "tcpdump",
                "-i",
                interface,
                "-U",
                "-s",
                "0",
                "-w",
                path,
                "--immediate-mode",
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        line = self._process.stderr.readline()  # "listening on …": the capture has begun
        while b"listening on" not in line and self._process.poll() is None:
            line = self._process.stderr.readline()

    def stop(self) -> bytes:
        # What the kernel has seen and tcpdump has not written yet would be lost
        size = -1
        while size != (now := os.path.getsize(self.path)):
            size = now
            time.sleep(0.3)
        self._process.terminate()
        self._process.wait(10)
        with open(self.path, "rb") as file:
            return file.read()
