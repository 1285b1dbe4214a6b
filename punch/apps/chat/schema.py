"""
The tables of a chat's history, and how an older file becomes one of today.

`PRAGMA user_version` is the version of a file's tables; `MIGRATIONS[n]` makes version n + 1 out of version n,
while foreign keys are not enforced: so a table can take another's place. A file is never changed by a version
that is older than the one which wrote it.
"""

from __future__ import annotations

#: Marks a file as ours ("Pnch").
APPLICATION_ID = 0x506E6368

MIGRATIONS = [
    """
    CREATE TABLE setting (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

    -- The state of the protocol with one peer. It outlives its messages, so that no id is used twice.
    CREATE TABLE conversation (
        key INTEGER PRIMARY KEY,
        peer BLOB NOT NULL UNIQUE,
        epoch BLOB NOT NULL,                    -- ours
        sent INTEGER NOT NULL DEFAULT 0,        -- the last id that we used
        generation INTEGER NOT NULL DEFAULT 0,  -- counts the epochs of theirs that we met
        remote_epoch BLOB,                      -- the newest of those
        received INTEGER NOT NULL DEFAULT 0,    -- in that epoch: the last id that is stored,
        shown INTEGER NOT NULL DEFAULT 0,       -- ... that a view has had,
        seen INTEGER NOT NULL DEFAULT 0         -- ... that somebody has read
    );

    -- state: 0 waits for its ack, 1 delivered, 2 read there; 3 unread here, 4 read here
    CREATE TABLE message (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversation,
        id INTEGER NOT NULL,
        generation INTEGER NOT NULL,            -- of the sender's epochs; 0 for ours
        state INTEGER NOT NULL,
        time REAL NOT NULL,
        time_sent REAL,
        client TEXT,                            -- a script's id, as JSON
        text TEXT NOT NULL,
        folded TEXT                             -- what a search compares, if it is not the text itself
    );
    CREATE INDEX message_of ON message (conversation, number);
    CREATE INDEX message_waiting ON message (conversation, id) WHERE state = 0;
    CREATE INDEX message_unfinished ON message (conversation, id) WHERE state = 1;
    CREATE INDEX message_unread ON message (conversation, number) WHERE state = 3;
    CREATE INDEX message_time ON message (time);
    """,
    """
    -- What came in an epoch of theirs; of each peer the last few are remembered.
    CREATE TABLE epoch (
        conversation INTEGER NOT NULL REFERENCES conversation,
        epoch BLOB NOT NULL,
        generation INTEGER NOT NULL,
        number INTEGER NOT NULL,                -- of the last message that came in it
        received INTEGER NOT NULL,              -- that one's id
        time_sent REAL,                         -- ... and what its sender told of its time
        shown INTEGER NOT NULL DEFAULT 0,       -- the last id that a view has had
        seen INTEGER NOT NULL DEFAULT 0,        -- ... that somebody has read
        PRIMARY KEY (conversation, epoch)
    ) WITHOUT ROWID;

    INSERT INTO epoch
        SELECT c.key, c.remote_epoch, c.generation, coalesce(m.number, 0), c.received, m.time_sent,
            c.shown, c.seen
        FROM conversation c LEFT JOIN message m
        ON m.conversation = c.key AND m.id = c.received AND m.generation = c.generation
        WHERE c.received > 0;

    CREATE TABLE newer (
        key INTEGER PRIMARY KEY,
        peer BLOB NOT NULL UNIQUE,
        epoch BLOB NOT NULL,
        sent INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 0
    );
    INSERT INTO newer SELECT key, peer, epoch, sent, generation FROM conversation;
    DROP TABLE conversation;
    ALTER TABLE newer RENAME TO conversation;
    """,
    """
    -- The last ids of ours of which views have had that they were delivered, and read.
    ALTER TABLE conversation ADD COLUMN told_delivered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE conversation ADD COLUMN told_read INTEGER NOT NULL DEFAULT 0;
    UPDATE conversation SET
        told_delivered = (SELECT coalesce(max(m.id), 0) FROM message m
            WHERE m.conversation = conversation.key AND m.state IN (1, 2)),
        told_read = (SELECT coalesce(max(m.id), 0) FROM message m
            WHERE m.conversation = conversation.key AND m.state = 2);
    CREATE INDEX message_read_there ON message (conversation, id) WHERE state = 2;
    """,
]

VERSION = len(MIGRATIONS)


def statements(script: str) -> list[str]:
    """The statements of a script: `executescript` would end the transaction that protects them."""
    lines = [line.split("--")[0] for line in script.splitlines()]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]
