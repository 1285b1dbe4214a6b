"""Peers in networks that only a proxy leads out of: tinyproxy (HTTP) and microsocks (SOCKS5)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.environment import plain_environment
from tests.needs import need, need_namespaces
from tests.netns import Host, Namespaces
from tests.processes import PUNCH, JSONProcess, Programs, programs

SERVICE = "198.51.100.1"
HTTP_PORT, SOCKS_PORT = 8888, 1080
TINYPROXY = f"""\
Port {HTTP_PORT}
Listen 10.1.0.1
Timeout 600
MaxClients 50
"""


class ProxiedNetworks:
    """
    Two networks, each with a proxy that has another leg on the public network and forwards nothing, and a
    rendezvous there.
    """

    def __init__(self, namespaces: Namespaces, running: Programs, directory: Path) -> None:
        self._running = running
        self._servers: list[subprocess.Popen[bytes]] = []
        public = namespaces.switch("public")
        service = namespaces.host("service")
        namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
        self.hosts: dict[str, Host] = {}
        for number, name in enumerate(("alice", "bob"), 1):
            lan = namespaces.switch(f"lan{number}")
            proxy, host = namespaces.host(f"proxy{number}"), namespaces.host(name)
            namespaces.plug(proxy, public, "wan", f"198.51.100.{10 + number}/24")
            namespaces.plug(proxy, lan, "lan", f"10.{number}.0.1/24")
            namespaces.plug(host, lan, "eth0", f"10.{number}.0.2/24")
            proxy.sysctl("net.ipv4.ip_forward=0")
            host.route(f"10.{number}.0.1")
            self.hosts[name] = host
            if number == 1:
                config = directory / "tinyproxy.conf"
                config.write_text(TINYPROXY)
                self._serve(proxy, "tinyproxy", "-d", "-c", str(config))
            else:
                listen = ["-i", "10.2.0.1", "-p", str(SOCKS_PORT), "-u", "me", "-P", "secret"]
                self._serve(proxy, "microsocks", *listen)
        rendezvous = running.rendezvous("--host", SERVICE, state="state-service", prefix=service.prefix)
        self.address = str(rendezvous.wait("listening", 60.0)["address"])

    def _serve(self, host: Host, *words: str) -> None:
        self._servers.append(subprocess.Popen([*host.prefix, *words], stdout=subprocess.DEVNULL))

    def state_of(self, name: str) -> str:
        """The state directory of a peer."""
        return str(self._running.directory / name)

    def peer(self, name: str, *options: str, **environ: str) -> JSONProcess:
        """A peer that accepts all calls."""
        words = [PUNCH, "peer", "--json", "--name", name, "--state-dir", self.state_of(name)]
        words += ["--rendezvous", self.address, "--accept", "anyone", *options]
        return self._running.start(words, prefix=self.hosts[name].prefix, env=environ)

    def run(self, name: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command: Sequence[str] = [*self.hosts[name].prefix, PUNCH, *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=plain_environment(**environ)
        )

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            server.wait()


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[ProxiedNetworks]:
    need_namespaces()
    for program in ("tinyproxy", "microsocks"):
        need(program)
    with Namespaces() as namespaces, programs(tmp_path) as running:
        found = ProxiedNetworks(namespaces, running, tmp_path)
        try:
            yield found
        finally:
            found.close()


def test_two_peers_behind_proxies(networks: ProxiedNetworks) -> None:
    """They register, meet on the relay, and chat; not with another password."""
    socks = f"10.2.0.1:{SOCKS_PORT}"
    wrong = networks.peer("bob", "--proxy", f"socks5://me:wrong@{socks}")
    text = str(wrong.wait("unregistered", 30.0)["text"])
    assert f"through the proxy {socks} (--proxy): it wants a user name and a password" in text
    assert "wrong@" not in text
    wrong.close()
    bob = networks.peer("bob", "--proxy", f"socks5://me:secret@{socks}")
    alice = networks.peer("alice", https_proxy=f"http://10.1.0.1:{HTTP_PORT}")
    for peer in (alice, bob):
        peer.wait("registered", 30.0)
    alice.command("call", peer=bob.events[0]["id"])
    assert alice.wait("connected", 30.0)["path"] == "relay"
    alice.command("send", text="through two proxies")
    assert bob.wait("message", 20.0)["text"] == "through two proxies"
    alice.wait("delivered")
    report = networks.run(
        "bob", "netcheck", "--rendezvous", networks.address, "--proxy", f"socks5://me:secret@{socks}"
    )
    assert report.returncode == 0, (report.stdout, report.stderr)
    assert "UDP           no" in report.stdout
    # Who can use a service only through a proxy can also have a stolen identity refused there.
    for name, options, environ in (
        ("bob", ["--proxy", f"socks5://me:secret@{socks}"], {}),
        ("alice", [], {"https_proxy": f"http://10.1.0.1:{HTTP_PORT}"}),
    ):
        state = networks.state_of(name)
        identity = ["--name", name, "--state-dir", state, "--rendezvous", networks.address]
        revoked = networks.run(name, "identity", "revoke", "--yes", *identity, *options, **environ)
        assert revoked.returncode == 0, (revoked.stdout, revoked.stderr)
        assert "refuses it for ever" in revoked.stdout
