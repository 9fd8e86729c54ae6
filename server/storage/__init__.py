"""The store: a module for each kind of things, with SQL that all engines share, above group commit and an engine."""
