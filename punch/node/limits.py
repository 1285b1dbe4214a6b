"""Bounds on what others can make a node keep, and on how long it waits. Times are in seconds."""

from __future__ import annotations

MAX_RINGING = 8
"""Incoming calls that wait for the user at once; further callers hear `busy`."""
MAX_SESSIONS = 64
"""Calls and links at once."""
MAX_STRANGERS = 32
"""Calls of unknown peers under way at once where anyone is let in, so that known peers still get through."""
MAX_QUEUED = 32
"""Calls that wait for the rendezvous at once."""
QUEUE_TIME = 12.0
"""Seconds a call waits for the rendezvous."""
ANSWER_TIME = 3.0
"""Seconds that a link has to answer when its peer is called again, before a new call is placed."""
MAX_UNSENT = 64
"""Control messages of calls under way that are kept while the rendezvous is away."""
STOP_TIME = 1.2
"""Seconds that closing the links in good order may take."""
