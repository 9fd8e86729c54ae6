"""Backups: create one, encrypt it, verify it, and restore a store from it."""
