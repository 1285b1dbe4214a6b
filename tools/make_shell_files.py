"""
Make the completions for bash, zsh and fish, and the manual pages, from what each command says of itself.

    python tools/make_shell_files.py           # writes share/
    python tools/make_shell_files.py --check   # the status is 1 if share/ is not what would be written

The source of all of them is `punch --help` and `punch COMMAND --help-all`, as for GNU help2man.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from punch.node.policies import PortMappingPolicy, RelayPolicy, SprayPolicy
from punch.ui.terminal.escapes import Notice
from punch.wire.control import Accept

ROOT = Path(__file__).resolve().parent.parent
SHARE = ROOT / "share"
TABLES = ROOT / "docs" / "commands.md"
"""Has the exit statuses and the variables of the environment, and of which commands each is."""
PUNCH = Path(sys.executable).with_name("punch")
HOME = "/home/you"
ENVIRONMENT = {
    "PATH": os.defpath,
    "HOME": HOME,
    "LOGNAME": "you",
    "USER": "you",
    "COLUMNS": "80",
    "LC_ALL": "C.UTF-8",
}
"""What help says of this environment is replaced by what it means."""
ACTIONS = {
    "rendezvous": ("status", "invite", "invitations", "peers", "usage", "revoke"),
    "peers": (),
    "identity": ("revoke",),
}
"""The commands whose first word may be an action. Those of the others' own are in their help."""


def _values(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(member.value for member in kind)


_PEER = {
    "--accept": _values(Accept),
    "--relay": _values(RelayPolicy),
    "--port-mapping": _values(PortMappingPolicy),
    "--spray": _values(SprayPolicy),
    "--notify": _values(Notice),
}
_SERVICE = {
    "--admit": ("open", "invited", "listed"),
    "--relay": ("on", "off"),
    "--relay-for": ("all", "invited"),
    "--log-format": ("text", "json"),
    "--log-addresses": ("cut", "full"),
    "--log-peers": ("cut", "full"),
}
CHOICES = {"peer": _PEER, "chat": _PEER, "web": _PEER, "rendezvous": _SERVICE}
"""The values of options that Twisted reads: argparse lists them in its help, and Twisted does not."""
NAME = "direct, private links between machines behind NATs"


@dataclass
class Item:
    """An option, an argument or an action, and what it is for."""

    words: str
    text: str = ""
    choices: tuple[str, ...] = ()
    """The values that the option takes, if they are a few."""

    @property
    def option(self) -> str:
        """The long option, without its value; empty for others."""
        found = re.search(r"--[\w-]+", self.words)
        return found[0] if found else ""

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the option."""
        return self.words.endswith("=") or " " in self.words.removeprefix("-h, ")

    @property
    def first(self) -> str:
        """The first sentence, or what comes before a default."""
        text = re.split(r"(?<=[a-z0-9)])[.;:] |\s*\[default", self.text)[0]
        return text.rstrip(".").strip()


@dataclass
class Help:
    """What a command says of itself."""

    name: str
    short: str = ""
    usage: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    action_words: dict[str, str] = field(default_factory=dict)
    """The words that may follow the name first, and what each does."""

    @property
    def options(self) -> list[Item]:
        return [item for item in self.items if item.option]

    @property
    def actions(self) -> list[Item]:
        return [item for item in self.items if re.fullmatch(r"[a-z]+", item.words)]


def said(*words: str) -> str:
    """What `punch` prints with these words."""
    done = subprocess.run([PUNCH, *words], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    text = done.stdout.replace("[default: you]", "[default: your login name]")
    return re.sub(r",\s+you\]", "]", text).replace(HOME, "~")


def parsed(name: str, short: str, text: str) -> Help:
    """The parts of a help text of argparse or of Twisted."""
    found = Help(name, short)
    paragraph: list[str] = []
    indent = 0

    def end_paragraph() -> None:
        if paragraph:
            found.text.append(" ".join(paragraph))
            paragraph.clear()

    lines = text.splitlines()
    in_usage = in_actions = False
    for line in lines:
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if re.match(r"[Uu]sage: ", line) or (in_usage and depth > 0 and stripped):
            in_usage = True
            found.usage.append(re.sub(r"^[Uu]sage: ", "", stripped))
        elif not stripped or re.fullmatch(r"[A-Za-z ]+:", line):
            in_usage = False
            end_paragraph()
            indent = 0
        elif depth == 0:
            in_usage = False
            indent = 0
            paragraph.append(stripped)
        elif in_actions and re.match(r" {4}[a-z]+ {2,}\S", line):
            indent = depth
            words, _, rest = stripped.partition("  ")
            found.items.append(Item(words, rest.strip()))
        elif found.items and indent and depth > indent:
            found.items[-1].text = f"{found.items[-1].text} {stripped}".strip()
        else:
            indent = depth
            if stripped == "action":
                in_actions = True
                continue
            words, _, rest = stripped.partition("  ")
            found.items.append(Item(words, rest.strip()))
    end_paragraph()
    return found


def collect() -> tuple[Help, list[Help]]:
    """The help of `punch`, and of each command, with actions that have help of their own."""
    text = said("--help")
    commands = {}
    for line in text.split("Commands:\n")[1].split("\n\n")[0].splitlines():
        if match := re.match(r"  ([a-z]+)( [A-Z\[\]]+)?  +(.*)", line):
            commands[match[1]] = match[3]
    names: list[tuple[str, ...]] = [(name,) for name in commands]
    names += [(name, action) for name, actions in ACTIONS.items() for action in actions]
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda words: said(*words, "--help-all"), names))
    found = []
    for words, help_text in zip(names, texts, strict=True):
        short = re.sub(r"[:;(].*", "", commands[words[0]]).strip() if len(words) == 1 else ""
        help_ = parsed(" ".join(words), short, help_text)
        if not short and help_.text:
            help_.short = re.split(r"\. ", help_.text[0])[0].rstrip(".")
        found.append(help_)
    for each in found:
        for item in each.options:
            listed = re.search(r"\{([\w,-]+)\}", item.words)
            given = CHOICES.get(each.name, {}).get(item.option, ())
            if not all(re.search(rf"\b{value}\b", item.text) for value in given):
                raise SystemExit(f"The help of punch {each.name} {item.option} names other values.")
            item.choices = tuple(listed[1].split(",")) if listed else given
        each.action_words = {item.words: item.first for item in each.actions}
        for other in found:
            if other.name.startswith(f"{each.name} "):
                each.action_words[other.name.rpartition(" ")[2]] = other.short
    top = Help("punch", NAME, ["punch COMMAND [options]"])
    return top, found


# -- the shells --


def bash(helps: list[Help]) -> str:
    cases = []
    for each in helps:
        words = " ".join(item.option for item in each.options)
        actions = " ".join(each.action_words)
        cases.append(f'        "{each.name}") options="{words}" actions="{actions}" ;;')
    commands = " ".join(each.name for each in helps if " " not in each.name)
    pairs = "|".join(f'"{each.name}"' for each in helps if " " in each.name)
    values = "\n".join(
        f'        "{name} {option}") values="{" ".join(choices)}" ;;'
        for name, option, choices in _all_choices(helps)
    )
    # Names of files are left to readline (-o default), which knows how to quote them
    return f"""# Completion of punch for bash. Made by tools/make_shell_files.py.
_punch_offer() {{
    # Also for bash 3.2, which is that of macOS
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(compgen -W "$1" -- "$2")
}}
_punch() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local command=${{COMP_WORDS[1]-}} options= actions= values= words= first=2
    if [ "$COMP_CWORD" -eq 1 ]; then
        _punch_offer "{commands} --help --version" "$current"
        return
    fi
    case "$command ${{COMP_WORDS[2]-}}" in
        {pairs})
            [ "$COMP_CWORD" -gt 2 ] && command="$command ${{COMP_WORDS[2]}}" first=3 ;;
    esac
    if [ "$current" = "=" ]; then
        current=
    elif [ "$previous" = "=" ] && [ "$COMP_CWORD" -gt 2 ]; then
        previous=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    case $command in
{chr(10).join(cases)}
    esac
    case "$command $previous" in
{values}
    esac
    case $current in
        -*) words=$options ;;
        *)
            words=$values
            if [ "$COMP_CWORD" -eq "$first" ]; then
                words="$words $actions"
            fi ;;
    esac
    _punch_offer "$words" "$current"
}}
complete -o default -F _punch punch
"""


def _all_choices(helps: list[Help]) -> list[tuple[str, str, tuple[str, ...]]]:
    """The command, the option and its values, of all options that take one of a few values."""
    return [(each.name, item.option, item.choices) for each in helps for item in each.options if item.choices]


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def zsh(helps: list[Help]) -> str:
    commands = [_zsh_quoted(f"{each.name}:{each.short}") for each in helps if " " not in each.name]
    cases = []
    for each in helps:
        options = [_zsh_quoted(f"{item.option}:{item.first}".replace("\\", "\\\\")) for item in each.options]
        actions = [
            _zsh_quoted(f"{word}:{text}".replace("\\", "\\\\")) for word, text in each.action_words.items()
        ]
        lines = "\n        ".join([*options, f") actions=({' '.join(actions)}"])
        cases.append(f'    ("{each.name}") options=(\n        {lines}) ;;')
    pairs = "|".join(f'"{each.name}"' for each in helps if " " in each.name)
    listed = "\n    ".join(commands)
    values = "\n".join(
        f'    ("{name} {option}") values=({" ".join(choices)}) ;;'
        for name, option, choices in _all_choices(helps)
    )
    return f"""#compdef punch
# Completion of punch for zsh. Made by tools/make_shell_files.py.
local command=$words[2] first=3
local -a commands options actions values
commands=(
    {listed}
)
if (( CURRENT == 2 )); then
    _describe command commands
    return
fi
case "$command $words[3]" in
    ({pairs}) (( CURRENT > 3 )) && command="$command $words[3]" first=4 ;;
esac
case $command in
{chr(10).join(cases)}
esac
case "$command $words[CURRENT-1]" in
{values}
esac
if (( $#values )); then
    compadd -a values
    return
fi
(( CURRENT == first )) && _describe action actions
_describe option options
_files
"""


def fish(helps: list[Help]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    pairs = " ".join(quoted(each.name) for each in helps if " " in each.name)
    lines = [
        "# Completion of punch for fish. Made by tools/make_shell_files.py.",
        "function __punch_command --description 'Whether the first words are these'",
        "    set -l words (commandline -opc) ''",
        '    set -l command "$words[2]"',
        f'    if contains -- "$words[2] $words[3]" {pairs}',
        '        set command "$words[2] $words[3]"',
        "    end",
        '    test "$command" = "$argv"',
        "end",
        "function __punch_at --description 'Whether so many words come before the one that is typed'",
        "    test (count (commandline -opc)) -eq $argv[1]",
        "end",
    ]
    lines += [
        f"complete -c punch -n '__punch_at 1' -f -a {each.name} -d {quoted(each.short)}"
        for each in helps
        if " " not in each.name
    ]
    for each in helps:
        condition = quoted(f"__punch_command {each.name}")
        at_once = quoted(f"__punch_command {each.name}; and __punch_at {len(each.name.split()) + 1}")
        for item in each.options:
            value = " -r" if item.takes_value else ""
            if item.choices:
                value = f" -x -a {quoted(' '.join(item.choices))}"
            lines.append(
                f"complete -c punch -n {condition} -l {item.option[2:]}{value} -d {quoted(item.first)}"
            )
        for word, text in each.action_words.items():
            lines.append(f"complete -c punch -n {at_once} -f -a {word} -d {quoted(text)}")
    return "\n".join(lines) + "\n"


# -- manual pages --


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


Tables = dict[str, list[tuple[str, str, list[str]]]]


def read_tables() -> Tables:
    """The rows of each table of `TABLES`, by its first heading: the first cell, its meaning, and commands."""
    found: Tables = {}
    heading = ""
    for line in TABLES.read_text("utf-8").splitlines():
        if not line.startswith("| ") or line.startswith("| ---"):
            continue
        first, text, names = (cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
        if names == "commands":
            heading = first
        else:
            found.setdefault(heading, []).append((first, text, names.split(", ")))
    return found


def page(each: Help, helps: list[Help], version: str, tables: Tables) -> str:
    """A manual page (man(7))."""
    title = each.name if each.name == "punch" else f"punch {each.name}"
    lines = [
        f'.TH "{title.replace(" ", "-").upper()}" 1 "" "Punch {version}" "Punch"',
        ".SH NAME",
        f"{_roff(title.replace(' ', '-'))} \\- {_roff(each.short)}",
        ".SH SYNOPSIS",
    ]
    for number, usage in enumerate(each.usage):
        lines += [*([".br"] if number else []), _roff(usage)]
    if each.text:
        lines.append(".SH DESCRIPTION")
        for number, text in enumerate(each.text):
            lines += [*([".PP"] if number else []), _roff(text)]
    if each.name == "punch":
        lines.append(".SH COMMANDS")
        for other in helps:
            name = f"punch-{other.name.replace(' ', '-')}"
            lines += [".TP", f".BR {_roff(name)} (1)", _roff(other.short) + "."]
    if each.items:
        lines.append(".SH OPTIONS" if each.options else ".SH ARGUMENTS")
        for item in each.items:
            lines += [".TP", f"\\fB{_roff(item.words)}\\fR", _roff(item.text)]
    if each.name != "punch":
        for title, rows in (("EXIT STATUS", tables["status"]), ("ENVIRONMENT", tables["variable"])):
            found = [(words, text) for words, text, names in rows if names == ["all"] or each.name in names]
            lines += [f".SH {title}"] if found else []
            for words, text in found:
                lines += [".TP", f"\\fB{_roff(words)}\\fR", _roff(text[0].upper() + text[1:] + ".")]
    see = "punch (1)" if each.name != "punch" else "twistd (1)"
    lines += [".SH SEE ALSO", f".BR {see}"]
    return "\n".join(lines) + "\n"


def files() -> dict[str, str]:
    """All files, by their path below `share/`."""
    from punch import __version__

    top, helps = collect()
    tables = read_tables()
    found = {
        "bash-completion/completions/punch": bash(helps),
        "zsh/site-functions/_punch": zsh(helps),
        "fish/vendor_completions.d/punch.fish": fish(helps),
    }
    for each in (top, *helps):
        name = "punch" if each is top else f"punch-{each.name.replace(' ', '-')}"
        found[f"man/man1/{name}.1"] = page(each, helps, __version__, tables)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the files for shells and the manual pages.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    wanted = files()
    found = {str(path.relative_to(SHARE)): path.read_text() for path in SHARE.rglob("*") if path.is_file()}
    if check:
        differing = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        if differing:
            print(f"Run tools/make_shell_files.py, as these have changed: {', '.join(differing)}.")
        return 1 if differing else 0
    for name in found.keys() - wanted.keys():
        (SHARE / name).unlink()
    for name, text in wanted.items():
        path = SHARE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
