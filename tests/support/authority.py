"""Keys, and an authority that signs certificates for them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from console import ConsoleServer


def new_key(folder: Path, name: str) -> Path:
    """Make a private key, with the public one beside it."""
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


class Authority:
    """An authority for user certificates, trusted by a console."""

    def __init__(self, console: ConsoleServer, folder: Path) -> None:
        """Make its key, and the configuration of a console that trusts it."""
        self.folder = folder
        self.key = new_key(folder, "ca")
        (console.folder / "config.yaml").write_text(
            f"auth: {{trusted_user_ca_keys: {self.key}.pub}}\nlimits: {{per_source_penalties: false}}\n"
        )

    def signed(self, principals: str, *options: str, validity: str = "always:forever", host: bool = False) -> list[str]:
        """Return a new key with a certificate, as asyncssh takes it."""
        key = new_key(self.folder, f"id_{len(list(self.folder.iterdir()))}")
        kind = ["-h"] if host else []
        words = ["ssh-keygen", "-q", "-s", str(self.key), "-I", "test", "-n", principals, "-V", validity, *kind]
        for option in options:
            words += ["-O", option]
        subprocess.run([*words, f"{key}.pub"], check=True)
        return [str(key)]
