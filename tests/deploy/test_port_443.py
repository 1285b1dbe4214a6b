"""
One open port, 443, for everything: peers in networks that let nothing out but TCP to that port, and a
rendezvous that is started as docs/deployment.md says.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.test_deploy import DEPLOY, run
from tests.needs import need
from tests.netns import Host, Namespaces
from tests.network.test_namespaces import SERVICE
from tests.processes import TWISTD, Programs

PAGE = (DEPLOY.parent / "docs" / "deployment.md").read_text("utf-8")
UNIT = "punch-rendezvous.service"
BIND_SERVICE = 10
"""The number of the capability to bind ports below 1024 (capabilities(7))."""
ONLY_443 = """
    table inet only443 {
        counter refused { }
        chain forward {
            type filter hook forward priority -10; policy drop;
            iifname "lan" tcp dport 443 accept
            iifname "wan" tcp sport 443 ct state established accept
            counter name refused
        }
    }
"""


def recipe() -> tuple[list[str], str]:
    """The options for one open port, and the drop-in of the unit, as they stand on the page."""
    item = PAGE.partition("- **One open port, 443**:")[2].partition("\n- ")[0]
    (options,) = re.findall(r"`(--control [^`]*)`", item)
    (drop_in,) = re.findall(r"^ *```ini\n(.*?)^ *```$", item, re.MULTILINE | re.DOTALL)
    return options.split(), re.sub(r"^ +", "", drop_in, flags=re.MULTILINE)


def relay_only_recipe() -> list[str]:
    """What the page says of the relay: the reflector's UDP port may be another one."""
    (options,) = re.findall(r"With `(--control tcp:443)` this one port is enough", PAGE)
    return str(options).split()


def only_443(namespaces: Namespaces) -> tuple[Host, dict[str, Host], list[Host]]:
    """The service, two peers behind routers that let nothing else out, and these routers."""
    public, service = namespaces.switch("public"), namespaces.host("service")
    namespaces.plug(service, public, "eth0", f"{SERVICE}/24")
    hosts, routers = {}, []
    for number, name in enumerate(("alice", "bob"), 1):
        lan, host = namespaces.switch(f"lan{number}"), namespaces.host(name)
        router = namespaces.nat(
            f"nat{number}", public, f"198.51.100.{10 + number}/24", lan, f"10.{number}.0.1/24"
        )
        router.nft(ONLY_443)
        namespaces.plug(host, lan, "eth0", f"10.{number}.0.2/24")
        host.route(f"10.{number}.0.1")
        hosts[name] = host
        routers.append(router)
    return service, hosts, routers


def refused(router: Host) -> int:
    """How many packets a router did not let through."""
    (packets,) = re.findall(
        r"packets (\d+)", router.run("nft", "list", "counter", "inet", "only443", "refused")
    )
    return int(packets)


@pytest.mark.parametrize("options", [recipe()[0], relay_only_recipe()], ids=["all", "all of TCP"])
def test_everything_at_one_port(options: list[str], namespaces: Namespaces, running: Programs) -> None:
    """The peers register, meet over the relay, and chat. The service has no right but that to the port."""
    need("setpriv")
    service, hosts, routers = only_443(namespaces)
    (capability,) = re.findall(r"AmbientCapabilities=CAP_(\w+)", recipe()[1])
    rights = f"-all,+{capability.lower()}"
    unprivileged = ["setpriv", "--bounding-set", rights, "--inh-caps", rights, "--ambient-caps", rights]
    rendezvous = running.rendezvous(
        *options, "--host", SERVICE, state="state-service", prefix=[*service.prefix, *unprivileged]
    )
    address = rendezvous.wait("listening", 60.0)["address"]
    assert address.startswith(f"punch://{SERVICE}:443/"), address
    status = Path(f"/proc/{rendezvous.process.pid}/status").read_text()
    assert re.findall(r"^Cap(?:Eff|Bnd):\t(\w+)$", status, re.MULTILINE) == [f"{1 << BIND_SERVICE:016x}"] * 2
    peers = {
        name: running.peer(
            name,
            *("--rendezvous", address, "--accept", "anyone"),
            state=f"state-{name}",
            prefix=host.prefix,
        )
        for name, host in hosts.items()
    }
    alice, bob = peers.values()
    ids = {name: peer.wait("registered", 30.0) and peer.events[0]["id"] for name, peer in peers.items()}
    alice.command("call", peer=ids["bob"])
    for peer in (alice, bob):
        assert peer.wait("connected", 30.0)["path"] == "relay"
    for sender, receiver, to in ((alice, bob, ids["bob"]), (bob, alice, ids["alice"])):
        sender.command("send", peer=to, text="by port 443")
        assert receiver.wait("message")["text"] == "by port 443"
        sender.wait("delivered")
    # UDP, which they tried as well, was blocked
    assert all(refused(router) > 0 for router in routers)


def test_the_drop_in_of_the_unit(tmp_path: Path) -> None:
    """systemd takes it, and the unit keeps its other confinement."""
    need("systemd-analyze")
    _, drop_in = recipe()
    unit = tmp_path / UNIT
    unit.write_text((DEPLOY / UNIT).read_text().replace("/opt/punch/bin/twistd", TWISTD))
    directory = tmp_path / f"{UNIT}.d"
    directory.mkdir()
    (directory / "override.conf").write_text(drop_in)
    verified = run("systemd-analyze", "verify", str(unit))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    secure = run("systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit))
    assert secure.returncode == 0, secure.stdout
    (rights,) = re.findall("^CapabilityBoundingSet=(.+)$", drop_in, re.MULTILINE)
    assert f"AmbientCapabilities={rights}\n" in drop_in
    # The comment in the unit says the same
    assert rights in unit.read_text()
    assert "PrivateUsers=no" in unit.read_text()
    assert "PrivateUsers=no\n" in drop_in
