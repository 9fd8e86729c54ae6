"""The store: SQLite through aiosqlite, one writer, immediate transactions. The only home of aiosqlite."""
