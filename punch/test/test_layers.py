"""The layers of docs/architecture.md: imports point down, and protocol cores import no Twisted."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

import punch

ROOT = Path(punch.__file__).parent

#: What each part may import besides itself. A part is a package or a module directly below `punch`.
BASE = {
    "amounts",
    "extras",
    "files",
    "names",
    "sanitize",
    "unicode_tables",
    "identity",
    "contact_entries",
    "contacts",
    "state_files",
    "state",
}
ALLOWED = {
    "files": set(),
    "extras": set(),
    "unicode_tables": set(),
    "names": {"unicode_tables"},
    "sanitize": {"names"},
    "amounts": {"sanitize"},
    "identity": {"files"},
    "contact_entries": {"identity", "names", "sanitize"},
    "contacts": {"identity", "files", "contact_entries", "names"},
    "state_files": {"files", "identity"},
    "state": {"contacts", "identity", "names", "state_files", "wire"},
    "wire": {"identity"},
    "net": {"wire"},
    "ice": {"net", "wire", "identity"},
    "turn": {"net", "wire", "identity"},
    "natcheck": {"ice", "net", "wire", "identity"},
    "link": {"ice", "net", "wire", "identity"},
    "node": {"link", "natcheck", "ice", "turn", "net", "wire"} | BASE,
    "sentences": {"link", "wire"} | BASE,
    "local": {"sentences", "node", "link", "net", "wire"} | BASE,
    "endpoints": {"local", "sentences", "node", "link", "net", "wire"} | BASE,
    "apps": {"endpoints", "local", "node", "link", "natcheck", "net", "wire"} | BASE,
    "ui": {"apps", "sentences", "endpoints", "local", "node", "link", "natcheck", "ice", "net", "wire"}
    | BASE,
    "rendezvous": {"turn", "net", "wire", "amounts", "files", "identity"},
}

#: Composition roots: where a process is put together. They may import anything, and nothing imports them.
ROOTS = {"punch.__main__", "punch.cli"}

#: Packages, or modules in them, that must not know Twisted. (Automat's state machines are pure, too.)
PURE = [
    *(f"punch.{name}" for name in BASE - {"extras"}),
    "punch.sentences",
    "punch.wire",
    "punch.ice",
    "punch.turn",
    "punch.natcheck",
    *(
        f"punch.net.{name}"
        for name in ("deadlines", "fairness", "interfaces", "rate_limits", "sources", "token_bucket")
    ),
    *(
        f"punch.link.{name}"
        for name in (
            "connection",
            "control_stream",
            "core",
            "events",
            "multiplexer",
            "proof",
            "quic",
            "streams",
        )
    ),
    *(
        f"punch.node.{name}"
        for name in (
            "causes",
            "control.core",
            "control.servers",
            "events",
            "paths.path",
            "paths.restart_schedule",
            "policies",
            "punching.schedule",
            "network.relay_search",
            "network.router",
            "calls.description",
            "calls.signaling",
        )
    ),
    *(f"punch.apps.chat.{name}" for name in ("database", "model", "protocol", "redial", "store")),
    "punch.local.protocol",
    "punch.local.rendezvous",
    *(
        f"punch.apps.files.{name}"
        for name in ("codec", "events", "messages", "partial_folder", "source_reader", "source", "target")
    ),
    *(f"punch.apps.codes.{name}" for name in ("code", "exchange")),
    *(f"punch.apps.forward.{name}" for name in ("addresses", "messages")),
    "punch.ui.text.causes",
    "punch.ui.text.chat",
    "punch.ui.text.codes",
    "punch.ui.text.sentences",
    "punch.ui.text.transfers",
    *(
        f"punch.rendezvous.{name}"
        for name in (
            "config",
            "control_session",
            "directory.remote_calls",
            "directory.messages",
            "directory.redis_address",
            "members.lists",
            "members.membership",
            "members.records",
            "monitoring.status",
            "reflector",
            "registry",
            "tcp.connection_limiter",
        )
    ),
]
#: Of these, the only ones that ask the system anything: files, and the addresses of this machine.
ASKING = [
    "punch.files",
    "punch.contacts",
    "punch.identity",
    "punch.state",
    "punch.net.interfaces",
    "punch.apps.files.source_reader",
]


#: Modules that may schedule a delayed call themselves, and why. All others have a `Driver` for a core, a
#: `Timer` or `Timers` for single calls, or what Twisted has for Deferreds, coroutines and repetitions.
SCHEDULING = {
    "punch.net.driver": "they are here",
    "punch.rendezvous.directory.redis_client": "txredisapi schedules by an attribute of this name",
}


def is_root(name: str) -> bool:
    return any(name == root or name.startswith(root + ".") for root in ROOTS)


def modules() -> Iterator[tuple[str, str]]:
    """The name and the source of each module."""
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT.parent).with_suffix("")
        name = ".".join(relative.parts).removesuffix(".__init__")
        if not name.startswith("punch.test"):
            yield name, path.read_text()


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """All statements, at any depth. Expressions, which are most of a tree, hold none and are passed by."""
    todo: list[ast.AST] = [tree]
    for node in todo:
        if isinstance(node, ast.stmt):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            todo += getattr(node, field, ())


def imports(name: str, tree: ast.Module, package: bool) -> Iterator[str]:
    """Absolute names of all modules that a module imports, at any depth of its code."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*parts, base] if base else parts)
            yield base
            for alias in node.names:
                yield f"{base}.{alias.name}"


def scheduled(tree: ast.Module) -> list[int]:
    """The lines in which `callLater` is called or referred to, but for the end of the reactor's turn."""
    later = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "callLater"]
    soon = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.args[0]) == "0"
    }
    return sorted(node.lineno for node in later if id(node) not in soon)


class Contents(NamedTuple):
    """What a module imports, the names of its classes, and the lines in which it schedules calls."""

    imports: set[str]
    classes: list[str]
    scheduled: list[int]


@cache
def contents() -> dict[str, Contents]:
    """What is in each module. To parse them takes longer than all the tests."""
    found = {}
    for name, source in modules():
        tree = ast.parse(source, name)
        package = (ROOT.parent / Path(*name.split("."))).is_dir()
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        lines = scheduled(tree) if "callLater" in source else []
        found[name] = Contents(set(imports(name, tree, package)), classes, lines)
    return found


class LayersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.imports = {name: module.imports for name, module in contents().items()}

    def test_imports_point_down(self) -> None:
        wrong = []
        for name, imported in self.imports.items():
            if is_root(name) or name == "punch":
                continue
            part = name.split(".")[1]
            for target in imported:
                if not target.startswith("punch.") or target == "punch.__version__":
                    continue
                if target.split(".")[1] not in ALLOWED[part] | {part}:
                    wrong.append(f"{name} imports {target}")
        self.assertEqual(wrong, [])

    def test_nothing_imports_a_composition_root(self) -> None:
        wrong = [
            f"{name} imports {target}"
            for name, imported in self.imports.items()
            for target in imported
            if is_root(target) and not is_root(name)
        ]
        self.assertEqual(wrong, [])

    def test_pure_parts_do_not_import_twisted(self) -> None:
        wrong = [
            name
            for name, imported in self.imports.items()
            if any(name == pure or name.startswith(pure + ".") for pure in PURE)
            and any(target.split(".")[0] in ("twisted", "asyncio") for target in imported)
        ]
        self.assertEqual(wrong, [])

    def test_cores_have_no_socket_no_clock_and_no_thread(self) -> None:
        impure = {"socket", "time", "threading", "select", "subprocess", "random"}
        wrong = [
            f"{name} imports {target}"
            for name, imported in self.imports.items()
            if any(name == pure or name.startswith(pure + ".") for pure in PURE) and name not in ASKING
            for target in imported
            if target.split(".")[0] in impure
        ]
        self.assertEqual(wrong, [])

    def test_pure_parts_exist(self) -> None:
        self.assertEqual([name for name in (*PURE, *ASKING) if name not in self.imports], [])

    def test_the_global_reactor_is_named_only_where_a_process_starts(self) -> None:
        wrong = [
            name
            for name, imported in self.imports.items()
            if "twisted.internet.reactor" in imported and not is_root(name)
        ]
        self.assertEqual(wrong, [])

    def test_programs_are_ready_for_an_interrupt_before_they_load_anything(self) -> None:
        for name in ("cli/rendezvous/tap.py", "cli/peer_tap.py", "cli/main.py"):
            tree = ast.parse((ROOT / name).read_text())
            found = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
            self.assertEqual(ast.unparse(found[1]), "import punch.cli.startup")

    def test_calls_are_scheduled_by_the_driver(self) -> None:
        """`callLater(0, ...)` is no timer: it means the end of this turn of the reactor."""
        found = {name: module.scheduled for name, module in contents().items() if module.scheduled}
        self.assertEqual(set(found) - set(SCHEDULING), set(), found)
        self.assertEqual(set(SCHEDULING) - set(found), set())

    def test_what_counts_as_scheduling(self) -> None:
        """Calls after some time, and references to the method; not the end of the turn."""
        lines = (
            "clock.callLater(0, f)",
            "clock.callLater(wait, f)",
            "self.clock.callLater(0.5, f)",
            "later = reactor.callLater",
        )
        self.assertEqual(scheduled(ast.parse("\n".join(lines))), [2, 3, 4])

    def test_no_two_classes_have_one_name(self) -> None:
        """Except for what Twisted looks up by name in the module of a plugin."""
        names = Counter(name for module in contents().values() for name in module.classes)
        self.assertEqual([name for name, count in names.items() if count > 1 and name != "Options"], [])

    def test_every_part_is_placed(self) -> None:
        parts = {name.split(".")[1] for name in self.imports if name != "punch" and not is_root(name)}
        self.assertEqual(parts - set(ALLOWED), set())
