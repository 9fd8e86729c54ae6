"""Backups: the archive and its encryption, how a backup is created and how a store is restored from one."""
