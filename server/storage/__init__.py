"""The store: one module per kind of record, in SQL that all engines share, on top of group commit."""
