"""
Translates the end of a QUIC connection, or a failure on it, into the end of its link: a code and a reason.
"""

from __future__ import annotations

from typing import Final

from punch.link.events import CloseCode
from punch.link.frames import known_code
from punch.link.quic.interface import QuicError
from punch.link.quic.receive_limits import LimitExceeded

APPLICATION_CODES: Final = 0x5000
"""The QUIC application error code of close code 0. QUIC itself defines no codes there."""
_APPLICATION_ERROR: Final = 0x0C
_CRYPTO_ERRORS: Final = range(0x100, 0x200)


def explain(code: int, application: bool, reason: str) -> tuple[CloseCode, str, bool]:
    """
    The end of a QUIC connection as an end of the link: code, reason, whether the other side's application
    ended it.
    """
    if application and APPLICATION_CODES <= code < APPLICATION_CODES + 256:
        return known_code(code - APPLICATION_CODES), reason, True
    if not application and code in _CRYPTO_ERRORS:
        return CloseCode.PROOF, f"The handshake failed: {reason or hex(code)}.", False
    if not application and code == _APPLICATION_ERROR:
        # During the handshake, QUIC replaces our own code by this one
        return CloseCode.REFUSED, "The other side closed the connection.", True
    if "idle" in reason.lower():
        return CloseCode.LOST, "The other side has not been heard of for too long.", False
    return CloseCode.PROTOCOL, f"QUIC ended the connection: {reason or hex(code)}.", False


def explain_failure(error: QuicError | LimitExceeded) -> tuple[CloseCode, str]:
    """
    Return the code and reason with which a link ends when the library has failed or a limit was exceeded.
    """
    if isinstance(error, LimitExceeded):
        return CloseCode.PROTOCOL, str(error)
    return CloseCode.INTERNAL, f"The QUIC library failed: {error}."
