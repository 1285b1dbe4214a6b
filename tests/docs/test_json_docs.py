"""What scripts can do and are told, and what docs/json.md promises them, are the same."""

from __future__ import annotations

import re
from pathlib import Path

from punch.apps.chat import MessageState
from punch.apps.files.events import Stage
from punch.ice.punching.techniques import TECHNIQUES, Technique
from punch.local import connection, server, socket_file
from punch.natcheck.report import Direct, FamilyReport, NetcheckReport, RouterReport
from punch.ui.commands import COMMANDS
from punch.ui.json import events, front_end

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
EVENTS, COMMANDS_SECTION = PAGE.split("## Events of the peer")[1].split("## Commands of the peer")
NETCHECK = PAGE.split("\n## netcheck")[1].split("\n## ")[0]
SOCKET = PAGE.split("## The socket of a node")[1].split("\n## ")[0]


def test_every_command_with_every_field() -> None:
    for name, command in COMMANDS.items():
        found = re.search(rf"^\| (`[a-z-]+`, )*`{name}`(, `[a-z-]+`)* \|.*$", COMMANDS_SECTION, re.MULTILINE)
        assert found is not None, f"docs/json.md does not describe {name}"
        for field in command.fields:
            assert f"`{field.name}`" in found[0], (name, field.name)


def test_every_event() -> None:
    told = {
        name
        for module in (events, front_end)
        for name in re.findall(r'(?:"event": |emit\()"([a-z-]+)"', Path(str(module.__file__)).read_text())
    }
    assert len(told) > 20
    told |= {f"transfer-{stage.value}" for stage in Stage} | set(
        re.findall(r'"(transfer-[a-z]+)"', Path(events.__file__).read_text())
    )
    for name in told | {str(state) for state in MessageState} - {"unread"}:
        found = re.search(rf"^\| (`[a-z-]+`, )*`{name}`(, `[a-z-]+`)* \|", EVENTS, re.MULTILINE)
        assert found, f"docs/json.md does not describe {name}"


def test_the_socket() -> None:
    """Its commands, its event and its numbers."""
    source = Path(connection.__file__).read_text()
    commands = set(re.findall(r'name (?:==|in) \(?"([a-z-]+)"(?:, "([a-z-]+)")?', source))
    names = {name for found in commands for name in found if name}
    assert names == {
        "status",
        "connect",
        "open",
        "serve",
        "accept-stream",
        "refuse-stream",
        "report-transfer",
    }
    for name in names | {"stream"}:
        assert re.search(rf"^\| `{name}` \|", SOCKET, re.MULTILINE), name
    for text in (
        f"more than {socket_file.MAX_PATH} bytes",
        f"{server.MAX_CONNECTIONS:,} connections are open",
        f"At most {connection.MAX_COMMANDS} commands",
        f"{connection.MAX_UNREAD >> 20} MiB of events",
        f"within {connection.ACCEPT_TIME:.0f} s, and refused while {connection.MAX_WAITING:,} others wait",
    ):
        assert text in SOCKET, text


def words(row: str, after: str) -> set[str]:
    """The words in backquotes of a row of a table, in the first parentheses after a text."""
    found = re.search(rf"{re.escape(after)}[^(]*\(\[?([^()\]]*)", row)
    assert found is not None, after
    return set(re.findall(r"`([a-z-]+)`", found[1]))


def test_techniques() -> None:
    """Each one is named where it can be told."""
    status = next(line for line in SOCKET.splitlines() if line.startswith("| `status` |"))
    table = {technique.value for technique in TECHNIQUES.values()}
    assert words(status, "the `technique` for a direct path over UDP") == table
    assert words(status, "of each technique that was used since the call began, by its name") == {
        technique.value for technique in Technique if technique is not Technique.RELAY
    }
    row = next(line for line in NETCHECK.splitlines() if line.startswith("| `techniques` |"))
    assert words(row, "the technique for a direct path") == {technique.value for technique in Technique}
    assert {technique.value for technique in Technique} == table | {"tcp"}


def test_netcheck() -> None:
    """Its fields, and the words of `direct`."""
    report = NetcheckReport("punch://192.0.2.1:7001", FamilyReport())
    fields = events.netcheck_fields(report)
    family = fields["ipv4"]
    for name in [*fields, *family, *RouterReport().to_json(), *fields["policy"], *fields["details"]]:
        assert f"`{name}`" in NETCHECK, name
    row = next(line for line in NETCHECK.splitlines() if line.startswith("| `direct` |"))
    assert set(re.findall(r"`([a-z]+)`", row)) == {"direct", *(each.value for each in Direct)}
