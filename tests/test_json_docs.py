"""What scripts can do and are told, and what docs/json.md promises them, are the same."""

from __future__ import annotations

import re
from pathlib import Path

from punch.apps.chat import MessageState
from punch.ui.commands import COMMANDS
from punch.ui.json import events, front_end

EVENTS, COMMANDS_SECTION = (
    (Path(__file__).parents[1] / "docs" / "json.md")
    .read_text()
    .split("## Events of the peer")[1]
    .split("## Commands of the peer")
)


def test_every_command_with_every_field() -> None:
    for name, command in COMMANDS.items():
        found = re.search(rf"^\| `{name}` \|.*$", COMMANDS_SECTION, re.MULTILINE)
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
    for name in told | {str(state) for state in MessageState} - {"unread"}:
        assert re.search(rf"^\| `{name}` \|", EVENTS, re.MULTILINE), f"docs/json.md does not describe {name}"
