"""What a session tells whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from punch.peer.session import Session


class SessionObserver(Protocol):
    """Whoever runs sessions. Nothing follows `session_ended`."""

    def session_introduced(self, session: Session) -> None:
        """Both sides know each other's candidates."""

    def session_checking(self, session: Session, pairs: int) -> None:
        """Checks began."""

    def session_connected(self, session: Session) -> None:
        """The link is proved."""

    def session_path_changed(self, session: Session) -> None:
        """The link moved, or has a path again."""

    def session_path_lost(self, session: Session) -> None:
        """The link has had no path for a while."""

    def session_silent(self, session: Session) -> None:
        """The path does not answer at once."""

    def session_dark(self, session: Session, dark: bool) -> None:
        """The link has no path, or has one again."""

    def session_ended(self, session: Session, reason: str, text: str) -> None:
        """The call or the link is over."""
