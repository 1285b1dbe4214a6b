"""
Decides when a process that owns its stdin and stdout ends, and with which exit status.

A peer that was started to call (`--peer`) ends when its input has ended and all messages were delivered; if
that is impossible, it ends with a sentence on stderr and status 1. A peer that waits for calls goes on
waiting. Each front end decides by itself what remains to be done when its input has ended.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from punch.apps.chat import Chat
from punch.apps.chat.events import Event
from punch.identity import PeerID
from punch.net.driver import Timer
from punch.node.causes import OtherCause, Reason
from punch.node.events import (
    CallFailed,
    Disconnected,
    PathChanged,
    PathLost,
    Ready,
    Registered,
    Unregistered,
)
from punch.sanitize import printable
from punch.ui.standard_streams import InputKind
from punch.ui.text.causes import event_sentence

#: Seconds after which a process without a user at a terminal gives up if it has not registered.
REGISTRATION_TIMEOUT = 10.0

#: Seconds for which a process whose input has ended waits for another path when one was lost.
PATH_TIMEOUT = 60.0

_NO_ANSWER = (
    f"The rendezvous has not answered within {REGISTRATION_TIMEOUT:.0f} seconds; check its address, and that "
    "this machine is online."
)


class ExitPolicy:
    """
    Ends the process, once.

    :param input_kind: what stdin is.
    :param watched: whether a user sits at the front end, who can wait and decide.
    :param finish: ends the process with a status and, if not None, a sentence on stderr.
    :param unsent: returns a sentence that names the messages that are not stored, or None. With such
        messages, the status is never 0.
    :param report: is called with a failure that is noticed here; it handles it as an event of the node.
    :param stopped: is called once, when the process or its service ends.
    :ivar finished: whether the process ends now.
    :ivar leaving: the status with which it will end when both sides are done; None: it was not told to end.
    :ivar input_ended: whether stdin has ended.
    """

    def __init__(
        self,
        chat: Chat,
        clock: IReactorTime,
        input_kind: InputKind,
        watched: bool,
        finish: Callable[[int, str | None], None],
        unsent: Callable[[], str | None],
        report: Callable[[CallFailed], object],
        stopped: Callable[[], None],
    ) -> None:
        self._input_kind = input_kind
        self._watched = watched
        self.finished = False
        self.leaving: int | None = None
        self.input_ended = False
        self._chat = chat
        self._clock = clock
        self._finish = finish
        self.unsent = unsent
        self._report = report
        self._stopped = stopped
        self._fatal: str | None = None
        self._registration_timer = Timer(clock)
        self._path_timers: dict[PeerID, Timer] = {}

    @property
    def ending(self) -> bool:
        """Whether the process ends, now or in a moment."""
        return self.finished or self.leaving is not None

    def leave(self, status: int = 0) -> None:
        """End the process when both sides have finished what is under way (`Chat.leave`)."""
        if not self.ending:
            self.leaving = status
            self._chat.leave().addBoth(lambda _: self.finish(status))

    def finish(self, status: int, sentence: str | None = None) -> None:
        """End the process now. Only the first call counts."""
        if not self.finished:
            unsent = self.unsent()
            if unsent is not None:
                status, sentence = status or 1, f"{sentence} {unsent}" if sentence else unsent
            self.stop()
            self._finish(status, sentence)

    def stop(self) -> None:
        """Cancel all timers, as the service stops."""
        if not self.finished:
            self.finished = True
            self._registration_timer.cancel()
            for peer in list(self._path_timers):
                self._stop_path_timer(peer)
            self._stopped()

    def handle(self, event: Event) -> None:
        """Start and stop timers for an event, before it is shown."""
        if isinstance(event, Ready):
            if not self._watched:
                self._registration_timer.start(REGISTRATION_TIMEOUT, self._not_registered)
        elif isinstance(event, Registered):
            self._registration_timer.cancel()
        elif isinstance(event, PathLost):
            self._start_path_timer(event.peer)
        elif isinstance(event, (PathChanged, Disconnected)):
            self._stop_path_timer(event.peer)

    def handle_shown(self, event: Event) -> None:
        """End the process if an event, which was shown, means that it can't go on."""
        if isinstance(event, CallFailed) and event.peer is None:
            self._fatal = event_sentence(event)
        elif not isinstance(event, Disconnected):
            return
        # Links don't need the rendezvous: while there are some, the process goes on.
        if self._fatal is not None and not self._chat.links:
            self.finish(1, printable(self._fatal))

    def _path_lost(self, peer: PeerID) -> None:
        """Hang up if all that this process had to do is to deliver its input; otherwise go on waiting."""
        if self.input_ended and self._input_kind is not InputKind.NOTHING and not self._watched:
            self._chat.hangup(peer)
        else:
            self._start_path_timer(peer)

    def _start_path_timer(self, peer: PeerID) -> None:
        timer = self._path_timers.setdefault(peer, Timer(self._clock))
        timer.start(PATH_TIMEOUT, self._path_lost, peer)

    def _stop_path_timer(self, peer: PeerID) -> None:
        timer = self._path_timers.pop(peer, None)
        if timer is not None:
            timer.cancel()

    def _not_registered(self) -> None:
        if self._chat.new_page is not None:
            return  # There is a page, so somebody may watch in a browser.
        registration = self._chat.registration
        if isinstance(registration, Unregistered) and registration.reason:
            self._report(CallFailed(None, registration.cause))
        else:
            self._report(CallFailed(None, OtherCause(Reason.RENDEZVOUS_UNREACHABLE.value, _NO_ANSWER)))
