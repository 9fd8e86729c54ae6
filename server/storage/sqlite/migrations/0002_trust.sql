-- Restrictions of a login: expiry, source networks and granted domains.

ALTER TABLE users ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN expires_at TEXT;                           -- UTC; none: never
ALTER TABLE users ADD COLUMN must_change_password INTEGER NOT NULL DEFAULT 0;

ALTER TABLE user_keys ADD COLUMN sources TEXT NOT NULL DEFAULT '';      -- networks, separated by commas; none: all
ALTER TABLE user_keys ADD COLUMN expires_at TEXT;                       -- UTC; none: never

CREATE TABLE grants (
    user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    granted_at TEXT NOT NULL,
    PRIMARY KEY (user_name, domain)
);

-- Before this schema, every operator and viewer could use every domain. The upgrade grants them all, so nothing changes.
INSERT INTO grants (user_name, domain, granted_at)
    SELECT u.name, d.name, u.added_at FROM users u, domains d WHERE u.role <> 'admin';
