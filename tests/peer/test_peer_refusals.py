"""The peer as a process that can't do what it is asked to: one sentence each."""

from __future__ import annotations

import os
from pathlib import Path

from tests.consoles import peer, run, terminal
from tests.local_peers import LocalPeers, one_sentence
from tests.processes import PUNCH, TWISTD, programs


def test_bad_ids(local: LocalPeers) -> None:
    bob, identity = local.bob()
    typo = identity[:10] + ("a" if identity[10] != "a" else "b") + identity[11:]
    one_sentence(local.call(typo, b"x\n"), "typo")
    one_sentence(local.call(identity[:-1], b"x\n"), "typo")
    one_sentence(local.call(local.id_of("alice"), b"x\n"), "own ID")
    one_sentence(local.call(local.id_of("nobody"), b"x\n"), "not registered")
    spaced = "-".join(identity[i : i + 8].upper() for i in range(0, 56, 8))
    assert local.call(spaced, b"typed by hand\n").returncode == 0
    assert bob.wait("message")["text"] == "typed by hand"


def test_bad_rendezvous(local: LocalPeers) -> None:
    _bob, identity = local.bob()
    wrong_pin = local.address.rpartition("/")[0] + "/" + "x" * 56
    for address, part in [
        ("http://example.org", "punch://"),
        (wrong_pin, "typo"),
        ("punch://127.0.0.1:99999", "port"),
        ("", "empty"),
    ]:
        one_sentence(local.call(identity, b"x\n", "--rendezvous", address), part)
    done = local.call(
        identity, b"x\n", "--rendezvous", "punch://127.0.0.1:1/" + local.address.rpartition("/")[2]
    )
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr.decode()
    one_sentence(done)


def test_another_key_than_the_pin_says(local: LocalPeers, tmp_path: Path) -> None:
    other = local.running.rendezvous(
        *("--control", "tcp:0:interface=127.0.0.1"), *("--reflector-port", "127.0.0.1:0"), state="other"
    )
    pin = other.wait("listening")["address"].rpartition("/")[2]
    wrong = ("--rendezvous", local.address.rpartition("/")[0] + "/" + pin)
    one_sentence(local.call(local.id_of("nobody"), b"x\n", *wrong), "key")
    one_sentence(run(peer(local.directory, "waiting", *wrong), tmp_path), "key")
    # Nobody waits for what can't become better
    hasty = local.running.peer("hasty", *wrong)
    ready = hasty.wait("ready")
    assert hasty.wait("failed")["time"] - ready["time"] < 8


def test_no_rendezvous_at_all(tmp_path: Path) -> None:
    one_sentence(run(peer(tmp_path, "alice"), tmp_path), "--rendezvous", "punch-rendezvous")


def test_where_the_rendezvous_comes_from(local: LocalPeers) -> None:
    """From the command line, the environment, the last run, the same machine: the first that there is."""

    def registered_at(*options: str, **extra: str) -> str:
        with terminal(peer(local.directory, "carol", *options), local.directory, extra=extra) as carol:
            address = carol.wait(r"Registered at (\S+)")[1]
            carol.type("/quit\n")
            assert carol.exit() == 0
            return address

    other = local.running.rendezvous(
        *("--control", "tcp:0:interface=127.0.0.1"),
        *("--reflector-port", "127.0.0.1:0"),
        *("--host", "127.0.0.1"),
        state="other",
    ).wait("listening")["address"]
    assert registered_at() == local.address
    assert registered_at(PUNCH_RENDEZVOUS=other) == other
    assert registered_at() == other
    assert registered_at("--rendezvous", local.address, PUNCH_RENDEZVOUS=other) == local.address
    assert registered_at() == local.address


def test_one_identity_one_process(local: LocalPeers) -> None:
    bob, _identity = local.bob()
    again = run(peer(local.directory, "bob"), local.directory)
    one_sentence(again, "already runs", "--name")
    bob.command("quit")
    assert bob.exit() == 0
    receiving = [PUNCH, "receive", "--json", "--name", "bob", "--state-dir", str(local.directory / "state")]
    with programs(local.directory) as running:
        running.start(receiving).wait("ready", 60.0)
        again = run(peer(local.directory, "bob"), local.directory)
        one_sentence(again, "punch receive already runs", "start this first")
    again_json = run(peer(local.directory, "bob", "--json", "--peer", "zzz"), local.directory)
    assert b'"event": "failed"' in again_json.stdout or b'"event":"failed"' in again_json.stdout
    one_sentence(again_json)


def test_something_that_is_no_file(tmp_path: Path) -> None:
    """A named pipe in the place of a file: the start would wait for its other end, without a word."""
    state = tmp_path / "state" / "peers" / "alice"
    state.mkdir(parents=True)
    command = peer(tmp_path, "alice", "--rendezvous", "punch://127.0.0.1:1")
    for name in ("known.json", "display-name", "peer.log", ".lock"):
        (state / name).unlink(missing_ok=True)
        os.mkfifo(state / name)
        one_sentence(run(command, tmp_path), str(state / name), "named pipe", "Move it away")
        (state / name).unlink()
    service = tmp_path / "state" / "rendezvous"
    service.mkdir()
    for name in ("rendezvous.log", "identity.key"):
        (service / name).unlink(missing_ok=True)
        os.mkfifo(service / name)
        started = [TWISTD, "-n", "punch-rendezvous", "--state-dir", str(tmp_path / "state")]
        one_sentence(run(started, tmp_path), str(service / name), "named pipe", "Move it away")
        (service / name).unlink()


def test_a_file_that_is_far_too_large(tmp_path: Path) -> None:
    """It is read late, when the peer is about to register."""
    state = tmp_path / "state" / "peers" / "alice"
    state.mkdir(parents=True)
    (state / "replaced").write_bytes(b"1" * 100_000)
    command = peer(tmp_path, "alice", "--rendezvous", "punch://127.0.0.1:1")
    one_sentence(run(command, tmp_path), str(state / "replaced"), "more than 65,536 bytes")


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    one_sentence(run(peer(tmp_path, "alice", "--rendezvous", "punch://127.0.0.1:1"), tmp_path), "--state-dir")
    one_sentence(
        run([TWISTD, "-n", "punch-peer", "--name", "a/b", "--rendezvous", "punch://127.0.0.1:1"], tmp_path),
        "--name",
    )
