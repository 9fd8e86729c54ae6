"""The store in a SQLite file: the only package that imports `sqlite3` and `aiosqlite`."""
