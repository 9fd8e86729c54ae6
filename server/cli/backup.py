"""`ecss-console backup`: writes a backup of the whole store to one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.backup.options import CreateOptions
from server.cli.output import complain, say
from server.cli.passphrase import new_passphrase
from server.config import Config
from server.file_names import DATABASE_NAME, STORAGE_KEY_NAME
from server.interrupts import interruptible
from server.model.lines import few_lines, one_line

if TYPE_CHECKING:
    from server.backup.archive import Manifest
    from server.backup.create import Created
    from server.backup.encryption import Keys


def backup(config: Config, options: CreateOptions) -> None:
    """Create a backup and print its contents. Raises StartError."""
    from server.backup.create import check_source, create  # noqa: PLC0415  only backups need pyrage and tarfile

    with interruptible():
        vault = check_source(config, options)
        created = create(config, options, vault, _keys(options))
        _tell(options, created)


def _keys(options: CreateOptions) -> Keys:
    from server.backup.encryption import Keys, check_recipients, identities_of  # noqa: PLC0415  as above

    if options.unencrypted:
        return Keys()
    if options.recipients:
        check_recipients(options.recipients)
        return Keys(recipients=options.recipients, identities=identities_of(options.identities))
    return Keys(passphrase=new_passphrase(options.passphrase_file))


def _tell(options: CreateOptions, created: Created) -> None:
    say(f"Backup {options.file}: {created.lock.value}, {created.size_bytes:,} bytes.")
    for line in described(created.manifest):
        say(line)
    if created.opened:
        say("Verified: the file was read back, opened and compared.")
    else:
        say(
            "Verified before it was encrypted; the bytes on the disk are those. Only an identity opens it: try one with"
        )
        say(f"  ecss-console restore {options.file} --verify-only --identity FILE")
    if options.without_keys:
        say(f"Without keys: {options.file} is worth nothing without the storage key, {STORAGE_KEY_NAME}.")
    if created.not_recorded:
        complain(f"the backup is not in the audit: {created.not_recorded}")
    for finding in few_lines([*created.manifest.findings]):
        complain(f"the audit of the store is not as it was written: {finding}")


def described(manifest: Manifest) -> list[str]:
    """Describe the contents of a backup in lines. Texts from its manifest cannot add further lines."""
    shown = {name: manifest.counts.get(name, 0) for name in ("domains", "integrations", "users", "audit")}
    keys = [name.rpartition("/")[2] for name in manifest.files if name != DATABASE_NAME]
    made_at, node, made_by = map(one_line, (manifest.made_at, manifest.node, manifest.made_by))
    return [
        f"made at {made_at} on {node} by {made_by}, schema {manifest.schema}",
        ", ".join(f"{count:,} {name if name != 'audit' else 'audit records'}" for name, count in shown.items()),
        f"keys: {', '.join(keys) or 'none'}",
        *few_lines([f"audit head of {node}: {head}" for node, head in sorted(manifest.heads.items())]),
    ]
