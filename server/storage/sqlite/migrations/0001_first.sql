-- Everything is TEXT or INTEGER and times are UTC in ISO 8601, so that one SQL text serves SQLite and PostgreSQL.

CREATE TABLE store (
    name TEXT PRIMARY KEY,          -- 'schema': number of the last migration; 'storage key': fingerprint of the key
    value TEXT NOT NULL
);

CREATE TABLE users (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    password_hash TEXT,             -- argon2id in PHC form; none: no login by password
    added_at TEXT NOT NULL
);

CREATE TABLE user_keys (
    user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    public_key TEXT NOT NULL,       -- 'algorithm base64', without options or comment
    comment TEXT NOT NULL,
    added_at TEXT NOT NULL,
    PRIMARY KEY (user_name, public_key)
);

CREATE TABLE domains (
    name TEXT PRIMARY KEY,
    declared_at TEXT NOT NULL
);

CREATE TABLE integrations (
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    client_id TEXT NOT NULL,
    type TEXT NOT NULL,             -- widget | service
    numbers TEXT NOT NULL,          -- ascending, separated by commas
    sealed_key TEXT NOT NULL,       -- AES-256-GCM, bound to domain and client id
    key_hash TEXT NOT NULL UNIQUE,  -- keyed: finds the client of a key without opening any
    added_at TEXT NOT NULL,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (domain, client_id)
);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    node TEXT NOT NULL,
    event TEXT NOT NULL,            -- a code of audit/event.py
    user_name TEXT NOT NULL,
    source TEXT NOT NULL,           -- address:port, or 'console host' for the program's own command line
    session_id TEXT NOT NULL,
    command TEXT NOT NULL,          -- path of the declaration
    arguments TEXT NOT NULL,        -- JSON object, secrets masked
    status INTEGER NOT NULL,        -- exit status: 0 is done
    detail TEXT NOT NULL,
    duration_ms INTEGER NOT NULL
);

CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    user_name TEXT NOT NULL,
    line TEXT NOT NULL
);

CREATE INDEX history_of_user ON history (user_name, id);
