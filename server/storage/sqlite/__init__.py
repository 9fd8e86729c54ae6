"""The store in a SQLite file: the only home of `sqlite3` and `aiosqlite`."""
