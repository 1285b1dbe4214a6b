"""
The chat: one application object (`punch.apps.chat.chat.Chat`) and its views.

`model` has its values, `events` what it tells.
"""

from punch.apps.chat.chat import Chat
from punch.apps.chat.conversations import MAX_LIMIT
from punch.apps.chat.model import (
    MAX_CLIENT_ID,
    MAX_TEXT,
    ChatError,
    ChatMessage,
    ChatStatus,
    ContactSummary,
    ConversationSummary,
    MessageState,
    check_text,
)

__all__ = [
    "MAX_CLIENT_ID",
    "MAX_LIMIT",
    "MAX_TEXT",
    "Chat",
    "ChatError",
    "ChatMessage",
    "ChatStatus",
    "ContactSummary",
    "ConversationSummary",
    "MessageState",
    "check_text",
]
