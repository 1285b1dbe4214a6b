"""Writes `punch/ui/web/static/shown.js`, the table of `punch.sanitize` for the page."""

from __future__ import annotations

from pathlib import Path

from punch import sanitize

TARGET = Path(__file__).parent.parent / "punch" / "ui" / "web" / "static" / "shown.js"


def javascript() -> str:
    """The module."""

    def one(code: int) -> str:
        return f"\\\\u{{{code:x}}}"

    def all_of(*ranges: tuple[int, int]) -> str:
        return "".join(f"{one(first)}-{one(last)}" for first, last in ranges)

    letters, digits = sanitize.LETTERS, sanitize.DIGITS
    flag = (
        f"{one(sanitize.FLAG)}[{all_of(letters)}]{{2}}[{all_of(letters, digits)}]{{1,4}}{one(sanitize.END)}"
    )
    return "\n".join(
        (
            "// Which characters are shown, left out or escaped. tools/make_shown_js.py writes it.",
            "",
            f'export const FLAG = "{flag}";',
            f'export const DROPPED = "{all_of(*sanitize.DROPPED)}";',
            f'export const ISOLATES = "{all_of(sanitize.BEGIN_ISOLATE)}{one(sanitize.END_ISOLATE)}";',
            f'export const END_ISOLATE = "{one(sanitize.END_ISOLATE)[1:]}";',
            "export const ESCAPED =",
            f'  "{all_of(*sanitize.ESCAPED)}";',
            "",
        )
    )


if __name__ == "__main__":
    TARGET.write_text(javascript(), "utf-8")
