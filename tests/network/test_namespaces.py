"""Two peers behind kernel NATs: direct, private, and the service knows nothing but that they met."""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from punch.identity import PeerID
from tests.needs import need, need_namespaces
from tests.netns import Capture, Host, Namespaces
from tests.processes import Event, JSONProcess, Programs

SERVICE = "198.51.100.1"
SECOND = "198.51.100.2"


class RendezvousAndPeers:
    """A rendezvous on the public side and two peers of which one calls the other."""

    def __init__(self, running: Programs, service: Host, alice: Host, bob: Host, host: str = SERVICE) -> None:
        self.rendezvous = running.rendezvous("--host", host, state="state-service", prefix=service.prefix)
        self.address = self.rendezvous.wait("listening")["address"]
        self.alice = self._peer(running, "alice", alice)
        self.bob = self._peer(running, "bob", bob)
        self.bob.wait("registered")
        self.alice.wait("registered")

    def _peer(self, running: Programs, name: str, host: Host) -> JSONProcess:
        options = ["--rendezvous", self.address, "--accept", "anyone"]
        return running.peer(name, *options, state=f"state-{name}", prefix=host.prefix)

    def ids(self) -> tuple[str, str]:
        return self.alice.events[0]["id"], self.bob.events[0]["id"]

    def call(self, *paths: str) -> tuple[Event, Event]:
        """What each side tells of its path as soon as it is one of these; the relay may serve until then."""
        self.alice.command("call", peer=self.ids()[1])
        return self._path(self.alice, paths), self._path(self.bob, paths)

    def _path(self, peer: JSONProcess, paths: tuple[str, ...]) -> Event:
        event = peer.wait("connected")
        while event["path"] not in paths:
            event = peer.wait("path")
        return event

    def say(self, sender: JSONProcess, receiver: JSONProcess, peer: str, text: str) -> None:
        sender.command("send", peer=peer, text=text)
        assert receiver.wait("message")["text"] == text
        sender.wait("delivered")


def two_homes(namespaces: Namespaces) -> tuple[Host, Host, Host, list[Host]]:
    """The service, alice and bob, each peer in a home of its own; and every switch, for captures."""
    public, lan_a, lan_b = namespaces.switch("public"), namespaces.switch("lan-a"), namespaces.switch("lan-b")
    service, alice, bob = namespaces.host("service"), namespaces.host("alice"), namespaces.host("bob")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24", f"{SECOND}/24")
    namespaces.nat("nat-a", public, "198.51.100.11/24", lan_a, "10.1.0.1/24")
    namespaces.nat("nat-b", public, "198.51.100.12/24", lan_b, "10.2.0.1/24")
    namespaces.plug(alice, lan_a, "eth0", "10.1.0.2/24")
    namespaces.plug(bob, lan_b, "eth0", "10.2.0.2/24")
    alice.route("10.1.0.1")
    bob.route("10.2.0.1")
    return service, alice, bob, [public, lan_a, lan_b]


def forms(secret: bytes) -> list[bytes]:
    """How 32 bytes may stand in a packet: raw, hex, and base64 at each of its three alignments."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        inner = text[(0, 2, 3)[shift] : len(text) - 4]
        found += [inner, inner.translate(bytes.maketrans(b"+/", b"-_"))]
    return found


def found_in(captures: list[bytes], secrets_: list[bytes]) -> list[bytes]:
    return [form for form in secrets_ if any(form in capture for capture in captures)]


def memory(pid: int) -> bytes:
    """Everything readable in a process's memory; it stands still meanwhile."""
    parts = []
    os.kill(pid, signal.SIGSTOP)
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
                if match is None or "[v" in line:
                    continue
                start, end = (int(group, 16) for group in match.groups())
                mem.seek(start)
                while start < end:
                    chunk = mem.read(min(1 << 20, end - start))
                    parts.append(chunk)
                    start += len(chunk)
    finally:
        os.kill(pid, signal.SIGCONT)
    return b"".join(parts)


def child(pid: int) -> int:
    """`ip netns exec` execs: the process itself."""
    assert Path(f"/proc/{pid}/cmdline").read_bytes().find(b"twistd") >= 0
    return pid


def address_of(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def written(host: str, port: int) -> list[bytes]:
    """How a candidate may be written: as text in our formats and the RFC's, and packed."""
    packed = ipaddress.ip_address(host).packed
    return [
        f"{host} {port} ".encode(),
        f"{host}:{port}".encode(),
        f'"{host}",{port}'.encode(),
        packed + port.to_bytes(2, "big"),
    ]


def test_two_masquerading_nats(namespaces: Namespaces, running: Programs, tmp_path: Path) -> None:
    need("tcpdump")
    service, alice, bob, switches = two_homes(namespaces)
    captures = [Capture(switch, "any", str(tmp_path / f"{i}.pcap")) for i, switch in enumerate(switches)]
    meeting = RendezvousAndPeers(running, service, alice, bob)
    at_alice, at_bob = meeting.call("srflx", "prflx")
    assert address_of(at_alice["remote"])[0] == "198.51.100.12"
    assert address_of(at_bob["remote"])[0] == "198.51.100.11"
    alice_id, bob_id = meeting.ids()

    message = secrets.token_bytes(32)
    for text in (
        message.hex(),
        base64.b64encode(message).decode(),
        message.decode("latin-1").replace("\n", " "),
    ):
        printable = "".join(c for c in text if c.isprintable())
        meeting.say(meeting.alice, meeting.bob, bob_id, printable)
        meeting.say(meeting.bob, meeting.alice, alice_id, printable)
    marker = secrets.token_hex(16)  # 32 bytes as typed
    meeting.say(meeting.alice, meeting.bob, bob_id, marker)

    # The service: no candidate of either peer in memory or logs.
    dump = memory(child(meeting.rendezvous.process.pid))
    assert SERVICE.encode() in dump, "the dump shows the process's memory"
    logs = b"".join(p.read_bytes() for p in (tmp_path / "state-service").rglob("*.log"))
    for host in ("10.1.0.2", "10.2.0.2"):
        assert host.encode() not in dump
        assert host.encode() not in logs
    for event in (at_alice, at_bob):
        for field in ("local", "remote"):
            for form in written(*address_of(event[field])):
                assert form not in logs
                assert form not in dump, (field, form)

    taken = [capture.stop() for capture in captures]
    keys = [PeerID.parse(text).key for text in (alice_id, bob_id)]
    wanted = forms(message) + forms(marker.encode())
    for key, text in zip(keys, (alice_id, bob_id), strict=True):
        wanted += [*forms(key), text.encode(), text.upper().encode()]
    assert all(len(capture) > 1000 for capture in taken)
    assert found_in(taken, wanted) == []


PLAIN_SERVER = """
import socket
server = socket.create_server(("", 9))
print("up", flush=True)
connection, _ = server.accept()
connection.recv(9999, socket.MSG_WAITALL)
"""
PLAIN_CLIENT = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 9))
connection.sendall(sys.stdin.buffer.read())
"""


def test_the_search_finds_plaintext(namespaces: Namespaces, tmp_path: Path) -> None:
    """The control run of the test above: the same captures and search, and a program that hides nothing."""
    need("tcpdump")
    service, alice, _, switches = two_homes(namespaces)
    captures = [Capture(switch, "any", str(tmp_path / f"{i}.pcap")) for i, switch in enumerate(switches)]
    message, key = secrets.token_bytes(32), secrets.token_bytes(32)
    sent = b"|".join([*forms(message), *forms(key), str(PeerID(key)).encode()])
    server = subprocess.Popen([*service.prefix, sys.executable, "-c", PLAIN_SERVER], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        subprocess.run(
            [*alice.prefix, sys.executable, "-c", PLAIN_CLIENT, SERVICE], input=sent, check=True, timeout=20
        )
        server.wait(10)
    finally:
        server.kill()
        server.wait()
    taken = [capture.stop() for capture in captures]
    wanted = [*forms(message), *forms(key), str(PeerID(key)).encode()]
    assert found_in(taken, wanted) == wanted


def test_udp_to_the_rendezvous_alone(namespaces: Namespaces, running: Programs) -> None:
    """A firewall lets UDP out to the port of the reflector and the relay: the direct path is over TCP."""
    service, alice, bob, _ = two_homes(namespaces)
    (router,) = [host for host in namespaces.hosts if host.name.endswith("nat-a")]
    router.nft(
        """
        table ip firewall {
            chain forward {
                type filter hook forward priority -10;
                oifname "wan" udp dport != 3478 drop
            }
        }
        """
    )
    meeting = RendezvousAndPeers(running, service, alice, bob)
    found = meeting.call("prflx")
    assert [event["protocol"] for event in found] == ["tcp", "tcp"]
    for event, host in zip(found, ("198.51.100.12", "198.51.100.11"), strict=True):
        assert address_of(event["remote"])[0] == host
    meeting.say(meeting.alice, meeting.bob, meeting.ids()[1], "over TCP")


def test_one_nat_uses_the_lan(namespaces: Namespaces, running: Programs) -> None:
    public, lan = namespaces.switch("public"), namespaces.switch("lan")
    service, alice, bob = namespaces.host("service"), namespaces.host("alice"), namespaces.host("bob")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
    namespaces.nat("nat", public, "198.51.100.11/24", lan, "10.1.0.1/24")
    for host, address in ((alice, "10.1.0.2"), (bob, "10.1.0.3")):
        namespaces.plug(host, lan, "eth0", f"{address}/24")
        host.route("10.1.0.1")
    meeting = RendezvousAndPeers(running, service, alice, bob)
    at_alice, at_bob = meeting.call("host")
    assert address_of(at_alice["local"])[0] == address_of(at_bob["remote"])[0] == "10.1.0.2"
    assert address_of(at_alice["remote"])[0] == address_of(at_bob["local"])[0] == "10.1.0.3"
    meeting.say(meeting.alice, meeting.bob, meeting.ids()[1], "over the LAN")


def test_hosts_with_two_addresses_on_one_network(namespaces: Namespaces, running: Programs) -> None:
    """Every socket answers from the address that was asked, the service's second one included."""
    service, alice, bob, _ = two_homes(namespaces)
    alice.run("ip", "address", "add", "10.1.0.3/24", "dev", "eth0")
    bob.run("ip", "address", "add", "10.2.0.3/24", "dev", "eth0")
    meeting = RendezvousAndPeers(running, service, alice, bob, host=SECOND)
    meeting.call("srflx", "prflx")
    meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "from the second address")


def test_two_addresses_on_a_lan(namespaces: Namespaces, running: Programs) -> None:
    public = namespaces.switch("public")
    service, alice, bob = namespaces.host("service"), namespaces.host("alice"), namespaces.host("bob")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
    namespaces.plug(alice, public, "eth0", "198.51.100.21/24", "198.51.100.22/24", "2001:db8::21/64")
    namespaces.plug(bob, public, "eth0", "198.51.100.31/24", "198.51.100.32/24", "2001:db8::31/64")
    meeting = RendezvousAndPeers(running, service, alice, bob)
    meeting.call("host")
    meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "hello")


def test_nothing_but_link_local_addresses(namespaces: Namespaces, running: Programs) -> None:
    """A cable on which machines have given themselves addresses (RFC 3927)."""
    cable = namespaces.switch("cable")
    service, alice, bob = namespaces.host("service"), namespaces.host("alice"), namespaces.host("bob")
    for host, address in ((service, "169.254.7.1"), (alice, "169.254.7.2"), (bob, "169.254.99.3")):
        namespaces.plug(host, cable, "eth0", f"{address}/16")
    meeting = RendezvousAndPeers(running, service, alice, bob, host="169.254.7.1")
    at_alice, at_bob = meeting.call("host")
    assert address_of(at_alice["local"])[0] == address_of(at_bob["remote"])[0] == "169.254.7.2"
    meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "over the cable")


def test_the_way_out_is_the_last_of_many_interfaces(namespaces: Namespaces, running: Programs) -> None:
    """Ten networks without a router come before it, by name and by address."""
    service, alice, bob, _ = two_homes(namespaces)
    for host in (alice, bob):
        nobody = namespaces.switch(f"nobody-{'alice' if host is alice else 'bob'}")
        for number in range(10):
            namespaces.plug(host, nobody, f"cut{number}", f"10.0.{number}.2/24")
        host.run("ip", "address", "flush", "dev", "eth0")
    alice.run("ip", "address", "add", "10.1.0.2/24", "dev", "eth0")
    bob.run("ip", "address", "add", "10.2.0.2/24", "dev", "eth0")
    alice.route("10.1.0.1")
    bob.route("10.2.0.1")
    meeting = RendezvousAndPeers(running, service, alice, bob)
    at_alice, _ = meeting.call("srflx", "prflx")
    assert address_of(at_alice["remote"])[0] == "198.51.100.12"
    meeting.say(meeting.bob, meeting.alice, meeting.ids()[0], "by the way out")


def test_this_file_leaves_nothing_behind() -> None:
    need_namespaces()
    mine = f"punch{os.getpid()}-"
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert mine not in names
