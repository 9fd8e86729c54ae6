-- The audit becomes a chain: `audit verify` then finds every changed or removed record, and its place.

ALTER TABLE audit ADD COLUMN seq INTEGER;   -- per node from 1, without gaps; none: from before the chain
ALTER TABLE audit ADD COLUMN mac TEXT;      -- HMAC-SHA256 over the mac before it and this record, in hex
CREATE UNIQUE INDEX audit_of_node ON audit (node, seq);

CREATE TABLE audit_heads (
    node TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,                   -- of the newest record
    mac TEXT NOT NULL,
    signature TEXT NOT NULL                 -- HMAC-SHA256 over the three, with another key, in hex
);

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit is only added to');
END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit is only added to');
END;
