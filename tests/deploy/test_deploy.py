"""The files in deploy/: what reads them takes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from configparser import ConfigParser
from ipaddress import ip_address, summarize_address_range
from pathlib import Path

import pytest

from punch.wire.special_addresses import TABLE
from tests.needs import need, need_namespaces
from tests.netns import Host, Namespaces, entered
from tests.ports import free_port
from tests.processes import TWISTD, programs

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service"))

EXPRESSION_WORDS = {"by", "cause", "increase", "instance", "job", "limit", "min", "on", "rate", "sum"}


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    return set(re.findall(r"[a-z_]{2,}", bare)) - EXPRESSION_WORDS


def shell_blocks(section: str = "") -> list[list[str]]:
    """The command lines of each shell block of docs/deployment.md, or of one of its sections."""
    text = (DEPLOY.parent / "docs" / "deployment.md").read_text("utf-8")
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [
        [line.removeprefix(indent) for line in re.split(r"(?<!\\)\n", block.rstrip())]
        for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    ]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )


@pytest.mark.parametrize("name", UNITS)
def test_units(name: str, tmp_path: Path) -> None:
    need("systemd-analyze")
    unit = tmp_path / name
    unit.write_text((DEPLOY / name).read_text().replace("/opt/punch/bin/twistd", TWISTD))
    verified = run("systemd-analyze", "verify", str(unit))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    # In tenths: systemd says OK up to 4.9, and what nothing confines has 9.6.
    secure = run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit))
    assert secure.returncode == 0, secure.stdout


def test_commands_of_the_page() -> None:
    """
    A shell takes each block of docs/deployment.md, and the files of this source that it names are there.

    test_deployment_walk.py runs them, if asked to; test_readme.py checks the options of our commands.
    """
    blocks = shell_blocks()
    assert len(blocks) >= 10
    for block in blocks:
        taken = run("bash", "-n", "-c", "\n".join(block))
        assert (taken.returncode, taken.stderr) == (0, ""), block
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text("utf-8")
    named = set(re.findall(r"(?<!renewal-hooks/)\bdeploy/([\w.-]*\w)", page))
    assert {path.name for path in DEPLOY.iterdir()} - {"turn-secret"} <= named
    for name in named:
        assert (DEPLOY / name).exists(), name


def test_firewall() -> None:
    """The kernel takes it, in a network namespace."""
    need("nft")
    need_namespaces()
    done = run("unshare", "--net", "nft", "-f", str(DEPLOY / "nftables.conf"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_firewall_lets_in(namespaces: Namespaces) -> None:
    """
    What this machine sends to its own public address passes the rules for strangers: a TURN server on it
    sends there for them. And the answers of a DHCPv6 server come in.
    """
    need("nft")
    machine, router = namespaces.host("machine"), namespaces.host("router")
    machine.run("ip", "link", "set", "lo", "up")
    namespaces.join(machine, "wan", router, "lan")
    machine.run("ip", "address", "add", "203.0.113.5/24", "dev", "wan")
    machine.run("ip", "address", "add", "fe80::5/64", "dev", "wan", "nodad")
    router.run("ip", "address", "add", "fe80::1/64", "dev", "lan", "nodad")
    machine.run("nft", "-f", str(DEPLOY / "nftables.conf"))

    def arrives(sender: Host, source_port: int, host: str, port: int) -> bool:
        """Whether a datagram comes in at the machine."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with entered(machine):
            receiver = socket.socket(family, socket.SOCK_DGRAM)
        with entered(sender):
            sending = socket.socket(family, socket.SOCK_DGRAM)
            place = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0][4]
        with receiver, sending:
            receiver.bind(("", port))
            sending.bind(("", source_port))
            sending.sendto(b"hello", place)
            receiver.settimeout(0.5)
            try:
                return receiver.recv(100) == b"hello"
            except TimeoutError:
                return False

    assert arrives(machine, 0, "127.0.0.1", 53)
    assert not arrives(machine, 0, "203.0.113.5", 53)
    assert arrives(machine, 0, "203.0.113.5", 3478)
    assert arrives(machine, 0, "203.0.113.5", 50000)
    assert arrives(router, 547, "fe80::5%lan", 546)
    assert not arrives(router, 5353, "fe80::5%lan", 546)


def test_units_are_there() -> None:
    assert {"punch-rendezvous.service", "punch-peer.service"} <= set(UNITS)


def test_compose() -> None:
    need("docker-compose")
    file = str(DEPLOY / "compose.yaml")
    found = run("docker-compose", "-f", file, "config", PUNCH_HOST="rendezvous.example.org")
    assert found.returncode == 0, found.stderr
    assert "--host=rendezvous.example.org" in found.stdout
    assert run("docker-compose", "-f", file, "config", PUNCH_HOST="").returncode != 0


def test_compose_lets_coturn_run(tmp_path: Path) -> None:
    """
    The image of coturn gives its program a file capability, and the kernel runs such a program only where the
    capability is allowed.
    """
    need("turnserver", "setpriv")
    need_namespaces()
    service = (DEPLOY / "compose.yaml").read_text().partition("\n  coturn:\n")[2].partition("\n\n")[0]
    assert "cap_drop: [ALL]" in service
    added = re.search(r"cap_add: \[(.*)\]", service)
    assert added is not None
    allowed = "".join(f",+{name.strip().lower()}" for name in added[1].split(","))
    program = str(shutil.copy(shutil.which("turnserver") or "", tmp_path))
    # CAP_NET_BIND_SERVICE, effective: what setcap writes (linux/capability.h, VFS_CAP_REVISION_2).
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    for bounding, status in (("-all" + allowed, 0), ("-all", 126)):
        done = run("setpriv", "--bounding-set", bounding, "--no-new-privs", program, "--version")
        assert done.returncode == status, done.stderr


def test_coturn_relays_to_no_special_network() -> None:
    """What the rendezvous' own relay refuses because it is not on the internet, coturn refuses as well."""
    text = (DEPLOY / "turnserver.conf").read_text()
    assert "\nno-tcp-relay\n" in text
    denied = [
        network
        for first, last in re.findall(r"^denied-peer-ip=(\S+)-(\S+)$", text, re.MULTILINE)
        for network in summarize_address_range(ip_address(first), ip_address(last))
    ]
    assert len(TABLE) > 20
    for row in TABLE:
        within = (each for each in denied if each.version == row.network.version)
        parts = [each for each in within if each.overlaps(row.network)]
        assert sum(min(each.num_addresses, row.network.num_addresses) for each in parts) >= (
            row.network.num_addresses
        ), row


def test_what_the_container_copies_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied: set[str] = set()
    for line in re.findall(r"^COPY (?!--)(.*)$", text, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            assert (DEPLOY.parent / source).exists(), source
            # A file goes into a directory, the content of a directory to a path
            copied.add(target + source if target.endswith("/") else target)
    # What setup.py and setup.cfg read while the package is built.
    settings = ConfigParser()
    settings.read(DEPLOY.parent / "setup.cfg", "utf-8")
    files = {line for value in settings["options.data_files"].values() for line in value.split()}
    assert len(files) > 3
    licences = settings["metadata"]["license_files"].split()
    assert len(licences) >= 3
    for name in {"README.md", "punch", "twisted", *licences, *files}:
        path = f"/src/{name}"
        assert any(path == each or path.startswith(f"{each}/") for each in copied), name


def test_coturn_takes_its_configuration(tmp_path: Path) -> None:
    need("turnserver")
    text = (DEPLOY / "turnserver.conf").read_text()
    configuration = tmp_path / "turnserver.conf"
    configuration.write_text(text + "static-auth-secret=secret\nrealm=turn.example.org\n")
    assert "listening-port=3480" in text
    # It would wait for ever for 3481, which the second rendezvous of compose.yaml has
    assert "\nno-rfc5780\n" in text
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(
            [
                *("turnserver", "-c", str(configuration), "-L", "127.0.0.1", "-p", "0", "--log-file=stdout"),
                *("--pidfile", str(tmp_path / "pid"), "--userdb", str(tmp_path / "db")),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
        try:
            deadline = time.monotonic() + 20.0
            while "IO method" not in (said := (tmp_path / "log").read_text()):
                assert server.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)
        finally:
            server.kill()
            server.wait()
    assert "Bad configuration format" not in said
    assert "Unknown" not in said


def test_redis_takes_its_configuration(tmp_path: Path) -> None:
    need("redis-server")
    port = free_port()
    with (tmp_path / "log").open("w+") as log:
        server = subprocess.Popen(
            ["redis-server", str(DEPLOY / "redis.conf"), "--port", str(port), "--dir", str(tmp_path)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 20.0
            while "Ready to accept connections" not in (said := (tmp_path / "log").read_text()):
                assert server.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.05)
        finally:
            server.terminate()
            server.wait()
    # With an empty `save` nothing is written, not even at the end.
    assert not list(tmp_path.glob("*.rdb"))


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What Prometheus reads of a rendezvous that has refused something."""
    port = free_port()
    with programs(tmp_path_factory.mktemp("metrics")) as running:
        service = running.rendezvous(
            *("--control", "tcp:0:interface=127.0.0.1", "--reflector-port", "127.0.0.1:0"),
            *("--host", "127.0.0.1", "--connections-per-address", "1", "--metrics", str(port)),
        )
        address = service.wait("listening", timeout=60.0)["address"]
        for name in ("alice", "bob"):
            running.peer(name, "--rendezvous", address).wait(("registered", "unregistered"), timeout=60.0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
    return text


def names_of(metrics: str) -> set[str]:
    """The names that expressions may use; `up` is from Prometheus itself."""
    return {"up", *re.findall(r"^([a-z_]+)[{ ]", metrics, re.MULTILINE)}


def promtool(*arguments: str, stdin: str = "") -> str:
    """What Prometheus' own checks say; they find nothing wrong."""
    need("promtool")
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_metrics_are_as_prometheus_wants_them(metrics: str) -> None:
    assert 'punch_refusals_total{cause="connections-per-address"} ' in metrics
    assert promtool("check", "metrics", stdin=metrics) == ""


def test_dashboard(metrics: str, tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    taken: set[tuple[int, int]] = set()
    expressions = []
    for panel in panels:
        assert panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            expression = target["expr"].replace("$instance", "x")
            assert metrics_in(expression), expression
            assert metrics_in(expression) <= names_of(metrics), expression
            expressions.append(expression)
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "instance"}
    # Prometheus reads rules as YAML, so also as JSON.
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_alerts(metrics: str) -> None:
    text = (DEPLOY / "prometheus-alerts.yml").read_text()
    expressions = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
    assert len(expressions) == text.count("- alert:") >= 4
    for expression in expressions:
        assert metrics_in(expression), expression
        assert metrics_in(expression) <= names_of(metrics), expression
    # Each limit and cause that an alert asks for is one of the service's.
    for label in re.findall(r'(?:limit|cause)="[^"]*"', text):
        assert label in metrics
    assert "SUCCESS: 1 rule files found" in promtool("check", "config", str(DEPLOY / "prometheus.yml"))
    assert f"{len(expressions)} rules found" in promtool(
        "check", "rules", str(DEPLOY / "prometheus-alerts.yml")
    )


def test_renewed_certificates(tmp_path: Path) -> None:
    """The hook of certbot copies both files for the service, and reloads it only if it uses them."""
    lineage, state, commands = (tmp_path / name for name in ("lineage", "state", "commands"))
    for directory in (lineage, state, commands):
        directory.mkdir()
    for name in ("fullchain", "privkey"):
        (lineage / f"{name}.pem").write_text(f"new {name}")
    default, log = tmp_path / "default", tmp_path / "log"
    stopped = tmp_path / "stopped"
    (commands / "systemctl").write_text(
        f'#!/bin/sh\necho "$@" >> {log}\n[ "$1" != is-active ] || [ ! -e {stopped} ]\n'
    )
    (commands / "systemctl").chmod(0o755)
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "RENEWED_LINEAGE": str(lineage),
        "PUNCH_STATE": str(state),
        "PUNCH_DEFAULT": str(default),
    }
    for options, reloaded in (("", False), (f"OPTIONS=--certificate {state}/tls/fullchain.pem", True)):
        default.write_text(options)
        log.unlink(missing_ok=True)
        done = run(str(DEPLOY / "renew-certificate"), **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert ("reload punch-rendezvous" in log.read_text()) == reloaded
        for name in ("fullchain", "privkey"):
            copied = state / "tls" / f"{name}.pem"
            assert copied.read_text() == f"new {name}"
            assert copied.stat().st_mode & 0o777 == 0o600
            assert copied.stat().st_uid == state.stat().st_uid
    # A second process has files of its own, and is reloaded only if it uses them.
    second = tmp_path / "state-2"
    second.mkdir()
    for options in ("", f"OPTIONS=--certificate {second}/tls/fullchain.pem"):
        (tmp_path / "default-2").write_text(options)
        log.unlink()
        assert run(str(DEPLOY / "renew-certificate"), **environment).returncode == 0
        assert "reload punch-rendezvous\n" in log.read_text()
        assert ("reload punch-rendezvous-2\n" in log.read_text()) == bool(options)
        assert (second / "tls" / "privkey.pem").read_text() == "new privkey"
    # A service that is stopped can't be reloaded, and reads the files when it starts.
    stopped.touch()
    log.unlink()
    done = run(str(DEPLOY / "renew-certificate"), **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "reload" not in log.read_text()
