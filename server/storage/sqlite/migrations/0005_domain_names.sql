-- A domain is shown as it was declared. `name` stays the key, in lower case: integrations, grants and sealed keys use it.

ALTER TABLE domains ADD COLUMN declared_as TEXT NOT NULL DEFAULT '';

-- Before this schema only the lower-case name was stored, so the typed form is unknown.
UPDATE domains SET declared_as = name;
