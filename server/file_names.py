"""The names of the files that the console makes. Old stores and old backups use them too, so they never change."""

from __future__ import annotations

#: The database inside a backup and inside a restore that is under way. Where the live one lies is configured.
DATABASE_NAME = "console.db"
STORAGE_KEY_NAME = "storage.key"
HOST_KEY_NAME = "ssh_host_ed25519_key"
#: The host key that replaces the one in use at the end of a rotation.
NEXT_HOST_KEY_NAME = "ssh_host_ed25519_key_next"
#: The second host key, for older clients under `ssh.policy: compatible`.
ECDSA_HOST_KEY_NAME = "ssh_host_ecdsa_key"
#: The files of the keys folder that a backup holds. Public halves are made again from the private ones.
KEY_NAMES = (STORAGE_KEY_NAME, HOST_KEY_NAME, NEXT_HOST_KEY_NAME, ECDSA_HOST_KEY_NAME)
#: The folder of the keys inside a backup and inside a restore that is under way.
KEYS_FOLDER_NAME = "keys"
MANIFEST_NAME = "manifest.json"
RESTORE_PLAN_NAME = "plan.json"
