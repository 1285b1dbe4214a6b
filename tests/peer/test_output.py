"""What the output can't hold is escaped, and an output that takes nothing gets a sentence: every command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.consoles import environment
from tests.local_peers import LocalPeers
from tests.processes import PUNCH, TWISTD

LATIN = {"PYTHONIOENCODING": "iso-8859-1:strict"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UTF8 = {"LC_ALL": "C.UTF-8"}
COMMANDS = (
    [PUNCH, "id"],
    [PUNCH, "peers", "--help"],
    [PUNCH, "netcheck", "--help"],
    [TWISTD, "-n", "punch-peer", "--help"],
)


def run(arguments: list[str], redirect: str = "", **extra: str) -> subprocess.CompletedProcess[bytes]:
    """Run one to its end, with its stdout and stderr somewhere."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "bash", *arguments],
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_a_name_that_the_output_cannot_hold(tmp_path: Path) -> None:
    """Escaped for people, and JSON is ASCII anyway."""
    state = ["--state-dir", str(tmp_path / "state")]
    identity = run([PUNCH, "id", "--state-dir", str(tmp_path / "other")]).stdout.decode().strip()
    run([PUNCH, "id", *state])
    run([PUNCH, "peers", *state, "add", identity, "Ольга"])
    escaped = rb"\u041e\u043b\u044c\u0433\u0430"
    for extra in (LATIN, ASCII):
        for more in ([], ["--json"]):
            done = run([PUNCH, "peers", *state, *more], **extra)
            assert (done.returncode, done.stderr) == (0, b""), done
            assert escaped in done.stdout
        done = run([PUNCH, "peers", *state, "name", "Борис", "x"], **extra)
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
    assert "Ольга".encode() in run([PUNCH, "peers", *state], **UTF8).stdout
    for wrong in (["peers", *state, "name", "Ольга", "Ольга/Б"], ["peers", "Ольга"], ["send", "x", "Ольга"]):
        assert "Ольга".encode() in run([PUNCH, *wrong], **UTF8).stderr, wrong


@pytest.mark.parametrize("extra", [UTF8, ASCII])
def test_a_home_directory_that_is_not_utf8(tmp_path: Path, extra: dict[str, str]) -> None:
    home = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(home)
    for arguments in COMMANDS:
        done = run(arguments, **extra, HOME=os.fsdecode(home), XDG_STATE_HOME="")
        assert (done.returncode, done.stderr) == (0, b""), done
        assert done.stdout
    assert os.path.isdir(os.path.join(home, b".local"))


@pytest.mark.parametrize("columns", ["0", "-5", "3", "x", "", "9" * 5000])
def test_a_terminal_of_odd_width(columns: str) -> None:
    for arguments in COMMANDS[1:]:
        done = run(arguments, COLUMNS=columns)
        assert (done.returncode, done.stderr) == (0, b""), done
        assert b"--help" in done.stdout


def test_an_output_that_takes_nothing(tmp_path: Path) -> None:
    """A full disk is a failure and gets a sentence; an output that is closed is what the user wanted."""
    wrong = [[PUNCH, "bogus"], [TWISTD, "-n", "punch-peer", "--bogus"]]
    programs = [[PUNCH, "demo"], [PUNCH, "peer", "--rendezvous", "punch://127.0.0.1:1"]]
    for arguments in (COMMANDS[0], COMMANDS[-1], [PUNCH, "peers", "name", "--help"], *programs, *wrong):
        for redirect in (">/dev/full", "2>/dev/full", ">&- 2>&-"):
            if arguments in programs and redirect != ">/dev/full":
                continue
            done = run(arguments, redirect, HOME=str(tmp_path), TMPDIR=str(tmp_path))
            assert b"Traceback" not in done.stderr + done.stdout, done
            assert b"Exception" not in done.stderr + done.stdout, done
            if arguments in wrong:
                assert done.returncode in (1, 2)
                assert b"bogus" not in done.stdout, done
            elif redirect == ">/dev/full":
                assert done.returncode == 1
                full = b"can't be written: No space left on device.", b"can't be written, as on a full disk."
                assert any(sentence in done.stderr for sentence in full), done
                assert done.stderr.count(b"\n") == 1
            else:
                assert (done.returncode, done.stderr) == (0, b""), done


def test_a_transfer_whose_output_takes_nothing(local: LocalPeers) -> None:
    """It ends with a sentence, not only in the calls before the reactor runs."""
    state = ["--json", "--state-dir", str(local.directory / "state")]
    _, identity = local.bob("--accept", "anyone")
    for command in (["receive", "--yes"], ["send", "--wait", PUNCH, identity]):
        done = run([PUNCH, command[0], *state, "--name", "alice", *command[1:]], ">/dev/full")
        assert done.returncode == 1, done
        said = f"punch {command[0]}: The output can't be written: No space left on device.\n"
        assert done.stderr.decode() == said, done


def test_programs_that_run(local: LocalPeers) -> None:
    """A chat, its log, and who calls whom, in a locale of ASCII."""
    bob, identity = local.bob()
    bob.command("rename", name="Ольга")
    bob.wait("renamed")
    line = "Привет".encode()
    done = subprocess.run(
        local.peer("alice", "--peer", identity),
        input=line + b"\n",
        env=environment(**ASCII),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    assert bob.wait("message")["text"] == "Привет"
    assert done.stdout.isascii()
    assert rb"\u041f\u0440\u0438\u0432\u0435\u0442" in done.stdout
