"""`ecss-console restore`: restores the store from a backup, or only verifies the backup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.backup.options import RestoreOptions
from server.cli.backup import described
from server.cli.output import complain, say
from server.cli.passphrase import known_passphrase
from server.config import Config
from server.errors import StartError
from server.file_names import ECDSA_HOST_KEY_NAME
from server.interrupts import interruptible
from server.model.lines import few_lines
from server.transport.hostkey import fingerprint_in

if TYPE_CHECKING:
    from server.backup.encryption import Keys, Lock
    from server.backup.restore import Checked, Restored


def restore(config: Config, options: RestoreOptions) -> None:
    """Restore or verify a backup, and print its contents. Raises StartError."""
    from server.backup import restore as backups  # noqa: PLC0415  only backups need pyrage and tarfile

    with interruptible():
        with backups.opened(options.file) as sealed:
            keys = _keys(options, sealed.lock)
            if options.verify_only:
                checked = backups.verify(config, sealed, keys)
                say("\n".join(_told(checked)))
                backups.refuse_unless_restorable(config, checked, foreign=options.foreign)
                return
            restored = backups.restore(config, options, sealed, keys)
        _tell(restored)


def _keys(options: RestoreOptions, lock: Lock) -> Keys:
    from server.backup.encryption import Keys, Lock, identities_of  # noqa: PLC0415  as above

    if lock is Lock.PASSPHRASE:
        return Keys(passphrase=known_passphrase(options.passphrase_file))
    if lock is Lock.RECIPIENT and not options.identities:
        message = f"{options.file} is {lock.value}: give --identity FILE"
        raise StartError(message)
    return Keys(identities=identities_of(options.identities))


def _tell(restored: Restored) -> None:
    for each in restored.host_keys:
        called = "the ECDSA host key" if each.name == ECDSA_HOST_KEY_NAME else "the host key"
        now, before = fingerprint_in(each.now), fingerprint_in(each.before)
        complain(f"{called} is {now} now, it was {before}: clients that have learnt that one will warn")
    kept = [f"The old one is kept as {name}." for name in restored.kept]
    done = "Restored. Start the server; sessions and changes from after the backup are not in it."
    say("\n".join([*_told(restored.checked), *kept, done]))


def _told(checked: Checked) -> list[str]:
    """Describe a backup in lines. Print warnings for its faults and for checks that were not possible."""
    from server.backup.restore import Origin  # noqa: PLC0415  as above

    compared = {
        Origin.OURS: "its storage key is that of this console",
        Origin.ANOTHER: "its storage key is not that of this console, but that of its database",
        Origin.UNKNOWN: "its storage key is that of its database",
    }[checked.origin]
    manifest = checked.manifest
    lines = ["The backup is whole:", *described(manifest)]
    if checked.vault is None:
        complain("its storage key is not at hand: the origin of the backup and its audit were not checked")
    elif not checked.has_chain:
        lines.append(f"{compared}; schema {manifest.schema} has no chain to verify")
    else:
        lines.append(f"{compared}; its audit is as it was when the backup was made")
    if checked.vault is not None and checked.origin is Origin.UNKNOWN:
        complain("no storage key is in place, so nothing here can tell whose backup this is: compare the lines above")
    for finding in few_lines([*manifest.findings]):
        complain(f"the audit was not as it was written when the backup was made: {finding}")
    return lines
