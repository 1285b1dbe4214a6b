"""docs/architecture.md: what its table "Where is …?" names exists, and messages go the way that it shows."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import punch
from punch.node.events import Ready
from punch.test.internet import Internet
from punch.test.system import SERVICE, Peer, Rendezvous, connect
from punch.test.ui.front_ends import Screen
from punch.ui.front_end import FrontEndContext, Settings
from punch.ui.standard_streams import InputKind
from punch.ui.stdio import StdioFrontEnd

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TABLE = PAGE.split("## Where is …?\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| ([^|]+\?) \| \[`([\w/.]+)`\]\(\.\./([\w/.]+)\) \| `([\w.]+)` \|$", TABLE, re.M)
INSTALLED = Path(punch.__file__).parent.parent
WAY = PAGE.split("## The way of a message\n")[1].split("\n## ")[0]
STEPS = [
    re.findall(r"^\| [^|]+ \| \[`([\w/.]+)`\]\(\.\./([\w/.]+)\) \| `([\w.]+)` \|$", table, re.M)
    for table in WAY.split("**Typed**")
]
MODULES = re.findall(r"`(punch/[\w/]+(?:\.py|/))`", PAGE)


def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """What a module or a class defines."""
    for node in body:
        match node:
            case ast.ClassDef(name=name, body=inner):
                yield prefix + name
                yield from names(inner, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
            case ast.Assign(targets=targets):
                for target in targets:
                    yield from (prefix + each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def test_every_row_is_read() -> None:
    lines = [line for line in TABLE.splitlines() if line.startswith("| ")]
    assert len(ROWS) == sum(not line.startswith(("| question |", "| --- |")) for line in lines)
    assert len(ROWS) >= 30


@pytest.mark.parametrize(("question", "module", "link", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_it_is_there(question: str, module: str, link: str, name: str) -> None:
    assert module == link
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    assert name in set(names(tree.body)), question


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_modules_exist(module: str) -> None:
    assert (ROOT / module).exists()


def test_folders_of_tests() -> None:
    folders = {f"tests/{path.parent.name}/" for path in (ROOT / "tests").glob("*/__init__.py")}
    assert set(re.findall(r"`(tests/\w+/)`", PAGE)) == folders


class Trace:
    """Which functions of Punch are called, in order, each as its module and its name without the class."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __enter__(self) -> Trace:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(INSTALLED):
            self.calls.append((path.relative_to(INSTALLED).as_posix(), frame.f_code.co_name))


def front_end(peer: Peer, other: Peer) -> StdioFrontEnd:
    """The chat of a peer in a terminal, whose lines go to the other one."""
    context = FrontEndContext(peer.host.reactor, lambda status, sentence: None)
    settings = Settings(peer.id, peer.name)
    kind = InputKind.TERMINAL
    shown = StdioFrontEnd(settings, context, peer.chat, Screen(), kind, terminal=True, environ={})
    shown.view.handle(Ready(peer.id))
    shown.line.select(other.id, chosen=True)
    return shown


def test_messages_go_this_way() -> None:
    received, typed = STEPS
    assert [len({module for module, _, _ in steps}) for steps in STEPS] == [16, 14]  # with the view itself
    assert "through 15 modules" in WAY
    assert "through 13 modules" in WAY
    net = Internet(0)
    rendezvous = Rendezvous(net, net.host("rendezvous", SERVICE))
    alice = Peer(net, net.host("alice", "203.0.113.1"), rendezvous.address).register()
    bob = Peer(net, net.host("bob", "203.0.113.2"), rendezvous.address).register()
    connect(alice, bob)
    net.advance(5.0)
    line, _ = front_end(alice, bob), front_end(bob, alice)
    with Trace() as trace:
        line.input_received(b"hello\n")
        net.run_until(lambda: bob.texts() == ["hello"], 1.0, "the message")
    calls = iter(trace.calls)
    for module, link, name in [*typed, *received]:
        assert module == link
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        assert name in set(names(tree.body))
        assert (module, name.rpartition(".")[2]) in calls, f"{name} was not called, or not in this order"
    alice.stop()
    bob.stop()
    rendezvous.stop()
