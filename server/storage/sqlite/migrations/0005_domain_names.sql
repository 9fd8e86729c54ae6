-- A domain is shown as it was declared. `name` stays the key, in lower case: integrations, grants and sealed keys go by it.

ALTER TABLE domains ADD COLUMN declared_as TEXT NOT NULL DEFAULT '';

-- Before, names were kept in lower case only: nothing is known of how they were typed.
UPDATE domains SET declared_as = name;
