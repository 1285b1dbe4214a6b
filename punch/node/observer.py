"""What a session tells whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from punch.node.call import Call


class CallObserver(Protocol):
    """Whoever runs sessions. Nothing follows `session_ended`."""

    def call_introduced(self, session: Call) -> None:
        """Both sides know each other's candidates."""

    def call_checking(self, session: Call, pairs: int) -> None:
        """Checks began."""

    def call_connected(self, session: Call) -> None:
        """The link is proved."""

    def call_path_changed(self, session: Call) -> None:
        """The link moved, or has a path again."""

    def call_path_lost(self, session: Call) -> None:
        """The link has had no path for a while."""

    def call_silent(self, session: Call) -> None:
        """The path does not answer at once."""

    def call_disconnected(self, session: Call, disconnected: bool) -> None:
        """The link has no path, or has one again."""

    def call_ended(self, session: Call, reason: str, text: str) -> None:
        """The call or the link is over."""
