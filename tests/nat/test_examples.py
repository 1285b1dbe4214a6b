"""
The programs in docs/examples between two kernel NATs, by the command lines that their docstrings give.

A user's environment says all else: who it is, where the rendezvous is, and which names the address book has.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from punch.identity import Identity
from tests.apps.example_programs import EXAMPLES, Served, command_lines, run_to_end
from tests.environment import plain_environment
from tests.needs import need_namespaces
from tests.processes import JSONProcess, Programs

from .grid import start_rendezvous
from .kernel_network import KernelNetwork, Site
from .test_events import HOMES, sites

SERVICES = {"sum", "notes", "irc", "ssh", "web", "counter"}

OWN_NODES = ("echo.py", "watch.py")
"""Those that are a node themselves, with a new identity, and print its ID."""

CONTENT = "content\n" * 10_000

ANSWERS = {
    "fetch.py": re.escape(CONTENT),
    "amp.py": r"94\n",
    "perspective.py": r"buy bread\n",
    "irc.py": r"bob on #punch: hello, everybody\n",
    "ssh_client.py": r"[0-9.]+ s\n",
    "echo.py": r"hello\n",
    "counter.py": r"1\n",
    "watch.py": (
        r"(?s)[a-z2-7]{56}\nregistered at .*: (srflx|prflx), .*"
        r"\n(srflx|prflx), round trip [0-9.]+ ms\n.*"
    ),
}
"""Of the last command line of each, as a pattern."""


class User:
    """Somebody at a site, with a home directory that has the examples."""

    def __init__(self, site: Site, name: str, home: Path, rendezvous: str) -> None:
        self._prefix = site.host.prefix
        self._environment = plain_environment(
            HOME=str(home),
            LOGNAME=name,
            PATH=f"{Path(sys.executable).parent}:{plain_environment()['PATH']}",
            PUNCH_RENDEZVOUS=rendezvous,
            XDG_STATE_HOME=str(home / "state"),
        )
        self.examples = home / "examples"
        shutil.copytree(EXAMPLES, self.examples)
        self.id = self.run("punch", "id").strip()

    def run(self, *words: str) -> str:
        """What a command prints."""
        return run_to_end([*self._prefix, *words], cwd=self.examples, env=self._environment)

    def serve(self, *words: str) -> Served:
        """Start a program that serves until it is ended."""
        return Served([*self._prefix, *words], cwd=self.examples, env=self._environment)

    def chat(self, programs: Programs) -> JSONProcess:
        """Start a peer whose node the examples share."""
        command = ["twistd", "-n", "punch-peer", "--json"]
        return programs.start(command, prefix=self._prefix, env=self._environment)

    def status(self) -> dict[str, Any]:
        """What the node says."""
        found: dict[str, Any] = json.loads(self.run("punch", "status", "--json"))
        return found


def wait_for_services(alice: User) -> None:
    """Until all endpoints of the examples listen."""
    deadline = time.monotonic() + 60.0
    while not {each["service"] for each in alice.status()["services"]} >= SERVICES:
        assert time.monotonic() < deadline, alice.status()
        time.sleep(0.2)


def test_examples(running: Programs, tmp_path: Path) -> None:
    """Each does what its docstring says, without a relay, and whichever program is the node."""
    need_namespaces()
    lines = {path.name: command_lines(path) for path in EXAMPLES.glob("*.py")}
    servers = {name: lines[name][0] for name in lines.keys() - {"ssh_client.py"}}
    clients = {name: lines[name][-1] for name in ANSWERS}
    used = [*servers.values(), *clients.values()]
    assert sorted(used) == sorted(line for found in lines.values() for line in found)
    serving: list[Served] = []
    with KernelNetwork() as network:
        # So a path that works is a direct one, also of the nodes of echo.py, which nobody can ask.
        _, address = start_rendezvous(running, network, ["--relay", "off"])
        left, right = sites(network, "examples", 1, HOMES)
        alice, bob = (
            User(site, name, tmp_path / name, address) for site, name in ((left, "alice"), (right, "bob"))
        )
        bob.run("punch", "peers", "add", alice.id, "alice")
        for identity, name in ((bob.id, "bob"), (str(Identity.generate().peer_id), "carol")):
            alice.run("punch", "peers", "add", identity, name)
        alice.run("punch", "peers", "grant", "bob", "counter")
        (alice.examples / "file.txt").write_text(CONTENT)
        try:
            printed = {}
            first = servers.pop("amp.py")
            serving.append(alice.serve(*first))
            assert serving[0].line() == alice.id
            for name, words in servers.items():
                started = alice.serve(*(address if word == "RENDEZVOUS" else word for word in words))
                serving.append(started)
                if name != "fetch.py":  # twistd prints its log
                    printed[name] = started.line()
            nodes = {name: printed.pop(name) for name in OWN_NODES}
            assert set(printed.values()) == {alice.id}
            wait_for_services(alice)
            given = {"RENDEZVOUS": address, "[TEXT]": "hello", "[SECONDS]": "1"}

            def ask(name: str) -> None:
                given["ID"] = nodes.get(name, "")
                answer = bob.run(*(given.get(word, word) for word in clients[name]))
                assert re.fullmatch(ANSWERS[name], answer), (name, answer[:1000])

            ask("amp.py")  # becomes Bob's node
            bob.chat(running).wait("registered", 60.0)
            for name in ANSWERS.keys() - {"amp.py"}:
                ask(name)
            for user, other, router in ((alice, bob, right.routers[0]), (bob, alice, left.routers[0])):
                (link,) = user.status()["links"]
                public = router.run("ip", "-4", "-brief", "address", "show", "dev", "wan").split()[2]
                assert link["peer"] == other.id
                assert link["path"] in ("srflx", "prflx"), link
                assert link["remote"].rpartition(":")[0] == public.partition("/")[0], link
        finally:
            for each in serving:
                each.close()
