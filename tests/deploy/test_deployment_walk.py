"""
docs/deployment.md, followed on a new Debian: each command of it, as it stands there.

    pytest tests/deploy/test_deployment_walk.py --debian DIR

The Debian has systemd as its first process, a network namespace, and this machine's kernel. Peers are behind
NATs elsewhere. What is fetched (apt, pip) goes by this machine's network; Punch itself is built from this
source. The ACME server is Pebble, on the machine itself.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import punch
from tests.deploy.machine import Machine, install
from tests.deploy.test_deploy import shell_blocks
from tests.needs import need, need_namespaces
from tests.netns import Host, Namespaces
from tests.network.test_namespaces import SERVICE, two_homes
from tests.processes import PUNCH, JSONProcess, Programs

ROOT = Path(__file__).parents[2]
NAME = "rendezvous.example.org"
FETCHES = re.compile(r"\b(apt|pip) ")
PEBBLE = {
    "listenAddress": "127.0.0.1:14000",
    "managementListenAddress": "127.0.0.1:15000",
    "certificate": "/root/pebble/certificate.pem",
    "privateKey": "/root/pebble/key.pem",
    "httpPort": 80,
    "tlsPort": 443,
}


def build(directory: Path, version: str) -> None:
    """Source distribution and wheel of this source, as of another version."""
    source = directory.parent / f"source-{version}"
    kept_out = shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "__pycache__", "_trial_temp*", ".*_cache"
    )
    shutil.copytree(ROOT, source, ignore=kept_out)
    init = source / "punch" / "__init__.py"
    text = init.read_text()
    assert punch.__version__ in text
    init.write_text(text.replace(punch.__version__, version))
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(directory), str(source)],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def debian(request: pytest.FixtureRequest) -> Path:
    """An installed Debian."""
    directory = request.config.getoption("--debian")
    if directory is None:
        pytest.skip("takes ten minutes and fetches a Debian: give --debian DIR")
    need("debootstrap", "unshare", "nsenter")
    need_namespaces()
    install(Path(directory))
    return Path(directory)


class Walk:
    """The machine with the service, and two peers elsewhere."""

    def __init__(self, machine: Machine, running: Programs, alice: Host, bob: Host) -> None:
        self.machine = machine
        self.running = running
        self.hosts = {"alice": alice, "bob": bob}

    def follow(self, block: list[str]) -> str:
        """Run the command lines of a block; what they have printed."""
        said = ""
        for line in block:
            began = time.monotonic()
            done = self.machine.run(line, outside=bool(FETCHES.search(line)))
            print(
                f"# {line}\n{done.stdout[-1500:]}{done.stderr[-500:]}# {time.monotonic() - began:.1f} s\n",
                flush=True,
            )
            said += done.stdout
        return said

    def wait_until_healthy(self, state: str = "punch") -> None:
        """The service says that it works."""
        ask = f"/opt/punch/bin/punch rendezvous status --state-dir /var/lib/{state}"
        deadline = time.monotonic() + 60.0
        while (said := self.machine.run(ask, check=False)).returncode != 0:
            assert time.monotonic() < deadline, said.stdout + said.stderr + self.journal()
            time.sleep(0.5)

    def journal(self) -> str:
        return self.machine.run("journalctl -u punch-rendezvous --no-pager | tail -n 50").stdout

    def peer(self, name: str, address: str, *options: str, **environment: str) -> JSONProcess:
        prefix = [*self.hosts[name].prefix, "env", *(f"{key}={value}" for key, value in environment.items())]
        return self.running.peer(
            name,
            "--rendezvous",
            address,
            "--accept",
            "anyone",
            *options,
            state=f"state-{name}",
            prefix=prefix,
        )

    def netcheck(self, address: str) -> str:
        """What `punch netcheck` says on one of the other machines."""
        found = subprocess.run(
            [*self.hosts["alice"].prefix, PUNCH, "netcheck", "--rendezvous", address],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        print(found.stdout, found.stderr)
        assert found.returncode == 0
        return found.stdout

    def chat(self, address: str, other: str = "", **environment: str) -> None:
        """
        Both peers register, one calls the other, and each says something.

        :param other: the address at which the second one registers.
        """
        alice, bob = (
            self.peer("alice", address, **environment),
            self.peer("bob", other or address, **environment),
        )
        alice.wait("registered", timeout=60.0)
        bob.wait("registered", timeout=60.0)
        ids = {peer: peer.events[0]["id"] for peer in (alice, bob)}
        alice.command("call", peer=ids[bob])
        alice.wait("connected", timeout=60.0)
        bob.wait("connected", timeout=60.0)
        for sender, receiver in ((alice, bob), (bob, alice)):
            sender.command("send", peer=ids[receiver], text="hello")
            assert receiver.wait("message", timeout=60.0)["text"] == "hello"
            sender.wait("delivered", timeout=60.0)
        for peer in (alice, bob):
            peer.close()


@pytest.fixture
def walk(debian: Path, namespaces: Namespaces, running: Programs, tmp_path: Path) -> Iterator[Walk]:
    service, alice, bob, _ = two_homes(namespaces)
    names = [Path("/etc/netns", host.name) for host in (alice, bob)]
    machine = Machine(tmp_path / "machine", debian, service)
    try:
        for directory in names:
            directory.mkdir(parents=True)
            (directory / "hosts").write_text(f"127.0.0.1 localhost\n{SERVICE} {NAME}\n")
        with (machine.root / "etc" / "hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 localhost\n{SERVICE} {NAME}\n")
        packages = machine.root / "srv" / "packages"
        build(packages, punch.__version__)
        (machine.root / "etc" / "pip.conf").write_text("[global]\nfind-links = /srv/packages\n")
        yield Walk(machine, running, alice, bob)
    finally:
        machine.close()
        for directory in names:
            shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(machine.root)


def test_the_page(walk: Walk) -> None:
    machine = walk.machine
    install_it, firewall, start, look, back_up, restore = shell_blocks(
        "From a bare server to a working service"
    )
    walk.follow(install_it)
    walk.follow(firewall)
    walk.follow(start)
    walk.wait_until_healthy()
    address = walk.follow(look).splitlines()[-1]
    assert address.startswith((f"punch://{NAME}:7001/", f"punch://{NAME}/")), address
    exposed = machine.run("systemd-analyze security --no-pager punch-rendezvous | tail -n 1").stdout
    print(exposed)
    assert "OK" in exposed
    assert machine.run("stat -L -c '%U %a' /var/lib/punch/rendezvous/identity.key").stdout != "root 600\n"
    walk.netcheck(address)
    walk.chat(address)

    # An invitation, made by root while the service runs, outlives the machine with the backup.
    machine.run("sed -i 's/^OPTIONS=/&--admit invited /' /etc/default/punch-rendezvous")
    machine.run("systemctl restart punch-rendezvous")
    walk.wait_until_healthy()
    invite = "/opt/punch/bin/punch rendezvous invite --uses 2 --state-dir /var/lib/punch"
    said = machine.run(invite).stdout
    print(said)
    walk.chat(re.findall(r"punch://\S+", said)[0])
    walk.follow(back_up)
    machine.run(
        "systemctl stop punch-rendezvous; rm -r /var/lib/private/punch/*; systemctl start punch-rendezvous"
    )
    walk.wait_until_healthy()
    assert machine.run("cat /var/lib/punch/rendezvous/public-address").stdout.strip() != address
    walk.follow(restore)
    walk.wait_until_healthy()
    assert machine.run("cat /var/lib/punch/rendezvous/public-address").stdout.strip() == address
    walk.chat(address)
    machine.run("sed -i 's/--admit invited //' /etc/default/punch-rendezvous")

    # With coturn as the only relay.
    (with_coturn,) = shell_blocks("The relay")
    walk.follow(with_coturn)
    walk.wait_until_healthy()
    machine.run("sed -i 's/^OPTIONS=/&--relay off /' /etc/default/punch-rendezvous")
    machine.run("systemctl restart punch-rendezvous")
    walk.wait_until_healthy()
    assert "A relay can be reached over UDP and TCP." in walk.netcheck(address)
    machine.run("sed -i 's/--relay off //' /etc/default/punch-rendezvous")

    # A second process, with which peers of the first one can talk.
    shared, second = shell_blocks("Several processes as one service")
    walk.follow(shared)
    walk.wait_until_healthy()
    walk.follow(second)
    walk.wait_until_healthy("punch-2")
    walk.chat(address, address.replace(":7001", "").replace(f"{NAME}/", f"{NAME}:7002/"))
    machine.run("systemctl disable --now punch-rendezvous-2")

    # A certificate, from an authority on the machine itself.
    start_authority(machine)
    (_by_files, by_acme) = shell_blocks("A certificate from an authority")
    walk.follow(by_acme)
    walk.wait_until_healthy()
    by_name = machine.run("cat /var/lib/punch/rendezvous/public-address").stdout.strip()
    print(by_name)
    assert by_name == f"punch://{NAME}:7001"
    authorities = walk.running.directory / "authorities.pem"
    authorities.write_text(machine.run("curl -sk https://127.0.0.1:15000/roots/0").stdout)
    walk.chat(by_name, SSL_CERT_FILE=str(authorities))
    pid = machine.run("systemctl show -P MainPID punch-rendezvous").stdout
    serial = served_serial(machine)
    print(machine.run("certbot renew --force-renewal --no-random-sleep-on-renew").stdout)
    deadline = time.monotonic() + 20.0
    while served_serial(machine) == serial:
        assert time.monotonic() < deadline, walk.journal()
        time.sleep(0.5)
    assert machine.run("systemctl show -P MainPID punch-rendezvous").stdout == pid
    walk.chat(by_name, SSL_CERT_FILE=str(authorities))

    # A newer version, with and without a TCP port that systemd holds.
    upgrade, hold_port = shell_blocks("Restart and upgrade")
    newer = f"{punch.__version__}.post1"
    build(machine.root / "srv" / "packages", newer)
    walk.follow(upgrade)
    walk.wait_until_healthy()
    assert (
        newer
        in machine.run("/opt/punch/bin/punch rendezvous status --json --state-dir /var/lib/punch").stdout
    )
    walk.follow(hold_port)
    walk.wait_until_healthy()
    alice = walk.peer("alice", by_name, SSL_CERT_FILE=str(authorities))
    alice.wait("registered", timeout=60.0)
    machine.run("systemctl restart punch-rendezvous")
    alice.wait("registered", timeout=60.0)
    assert "unreachable" not in json.dumps(alice.events)
    alice.close()
    walk.chat(by_name, SSL_CERT_FILE=str(authorities))
    assert machine.run("systemctl --failed --plain --no-legend").stdout == ""


def start_authority(machine: Machine) -> None:
    """An ACME server on the machine, which certbot uses."""
    machine.run("apt-get install --no-install-recommends pebble openssl curl", outside=True)
    directory = machine.root / "root" / "pebble"
    directory.mkdir()
    (directory / "pebble.json").write_text(json.dumps({"pebble": PEBBLE}))
    machine.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1 "
        "-keyout /root/pebble/key.pem -out /root/pebble/certificate.pem; "
        "systemd-run --unit=pebble -E PEBBLE_VA_NOSLEEP=1 -E PEBBLE_WFE_NONCEREJECT=0 "
        "pebble -config /root/pebble/pebble.json"
    )
    settings = ("server = https://127.0.0.1:14000/dir", "no-verify-ssl = true", "agree-tos = true")
    more = ("register-unsafely-without-email = true", "non-interactive = true")
    own_settings = machine.root / "root" / ".config" / "letsencrypt"
    own_settings.mkdir(parents=True)
    (own_settings / "cli.ini").write_text("\n".join((*settings, *more, "")))


def served_serial(machine: Machine) -> str:
    """The serial number of the certificate that the service shows."""
    return machine.run(
        "openssl s_client -connect 127.0.0.1:7001 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    ).stdout
