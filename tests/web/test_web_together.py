"""A chat in the page, transfers, a forwarded port and a program, at once on one identity and one link."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.processes import PUNCH, JSONProcess
from tests.web.web_pair import DIRECT, BrowserPair, BrowserUser, PageInspector, inspector, pair

__all__ = ["inspector", "pair"]

IRC = Path(__file__).parents[2] / "docs" / "examples" / "irc.py"

FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=30).read().decode())"

SIZE = 10_000_000
RATE = "4mbit"
"""Of Alice's access link, so that the transfers last until they are stopped being slowed down."""


class Shell:
    """The command line of a user of a pair, whose commands use the node of the user's page."""

    def __init__(self, pair: BrowserPair, user: BrowserUser, name: str) -> None:
        self._pair = pair
        self._user = user
        self.name = name
        self.state = pair.directory / f"state-{name}"

    def start(self, command: str, *words: str) -> JSONProcess:
        """Start a command of Punch, which tells events."""
        options = ["--json", "--state-dir", str(self.state), "--name", self.name]
        return self._pair.running.start([PUNCH, command, *options, *words], prefix=self._user.host.prefix)

    def endpoint(self, what: str) -> str:
        """The description of an endpoint at the user's node."""
        return f"punch:{what}:state-dir={self.state}:identity={self.name}"

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start a program in Python."""
        return subprocess.Popen(
            [*self._user.host.prefix, sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_everything_on_one_link(pair: BrowserPair, inspector: PageInspector, tmp_path: Path) -> None:
    """Chat, two transfers, a forwarded port and an example, of four processes on each side, with one link."""
    alice, bob = pair.alice.visitor, pair.bob.visitor
    alice_shell, bob_shell = Shell(pair, pair.alice, "alice"), Shell(pair, pair.bob, "bob")
    pair.connect()
    alice.sees(DIRECT)
    alice.say("Everything at once?")
    alice.mark("Everything at once?", "read")

    # A web server of Bob's, at a port of Alice's
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.txt").write_text("from bob's web server")
    site = bob_shell.popen("-m", "http.server", "--bind", "127.0.0.1", "-d", str(tmp_path / "served"), "8000")
    irc = alice_shell.popen(str(IRC), "serve", alice_shell.endpoint("service=irc:allow=bob"))
    try:
        bob_shell.start("expose", "localhost:8000", "--to", "alice").wait("exposed")
        forwarded = alice_shell.start("forward", "0", "bob:localhost:8000").wait("listening")["address"]
        assert irc.stdout is not None
        assert irc.stdout.readline().strip() == alice.id

        # A file each way, from the command line to the page of the other side
        shape = ["root", "tbf", "rate", RATE, "burst", "32k", "latency", "50ms"]
        for interface in ("wan", "lan"):
            pair.router.run("tc", "qdisc", "add", "dev", interface, *shape)
        senders = []
        for shell, to in ((alice_shell, "bob"), (bob_shell, "alice")):
            file = tmp_path / f"for {to}.bin"
            file.write_bytes(to.encode() * (SIZE // len(to)))
            senders.append(shell.start("send", str(file), to))
        for visitor in (alice, bob):
            visitor.page.get_by_role("button", name="Accept", exact=True).click()
            visitor.sees(re.compile(r"\d+ % of "))

        # Meanwhile
        url = f"http://{forwarded}/file.txt"
        fetched, _ = alice_shell.popen("-c", FETCH, url).communicate(timeout=60)
        assert fetched == "from bob's web server\n"
        said, problem = bob_shell.popen(
            str(IRC), "say", bob_shell.endpoint("alice:service=irc"), "bob", "hi"
        ).communicate(timeout=60)
        assert (said, problem) == ("bob on #punch: hi\n", "")
        bob.say("Yes, and I can still write.")
        alice.sees("Yes, and I can still write.")
        alice.go("#/activity")
        # What another program sends is shown, too
        alice.sees(re.compile(r"To bob · \d+ % of .* · punch send"))
        # What another program begins to serve meanwhile appears by itself.
        alice_shell.start("expose", "localhost:22", "--to", "bob", "--as", "ssh").wait("exposed")
        alice.sees("ssh")
        inspector.look("together", alice)

        for interface in ("wan", "lan"):
            pair.router.run("tc", "qdisc", "del", "dev", interface, "root")
        for sender in senders:
            sender.wait("transfer-done", 120.0)
        pair.alice.peer.command("status", request=1)
        status = pair.alice.peer.wait("result", where=lambda event: event.get("request") == 1)
        assert [link["peer"] for link in status["links"]] == [bob.id]
    finally:
        for process in (site, irc):
            process.kill()
            process.communicate()
    assert inspector.problems == []
    assert alice.complaints == []
    assert bob.complaints == []
