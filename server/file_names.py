"""The names of the console's files. They never change, because old stores and backups use them too."""

from __future__ import annotations

#: The database in a backup and during a restore. The configuration sets the path of the live one.
DATABASE_NAME = "console.db"
STORAGE_KEY_NAME = "storage.key"
#: The systemd credential with the password of PostgreSQL.
DATABASE_PASSWORD_NAME = "database.password"  # noqa: S105  a file's name
HOST_KEY_NAME = "ssh_host_ed25519_key"
#: The host key that replaces the one in use at the end of a rotation.
NEXT_HOST_KEY_NAME = "ssh_host_ed25519_key_next"
#: The second host key, for older clients under `ssh.policy: compatible`.
ECDSA_HOST_KEY_NAME = "ssh_host_ecdsa_key"
#: The files of the keys folder that a backup holds. Public keys are derived from the private ones.
KEY_NAMES = (STORAGE_KEY_NAME, HOST_KEY_NAME, NEXT_HOST_KEY_NAME, ECDSA_HOST_KEY_NAME)
#: The folder of the keys in a backup and during a restore.
KEYS_FOLDER_NAME = "keys"
MANIFEST_NAME = "manifest.json"
RESTORE_PLAN_NAME = "plan.json"
