"""The SSH algorithms, in order of preference. ssh-audit reports no failure for these lists."""

from __future__ import annotations

#: The key exchanges of each `ssh.policy`. The client's order decides, so a client that prefers ML-KEM gets it.
#: `curve25519-sha256` is first, because dropbear guesses it and is disconnected when the guess is wrong.
_KEX = ("curve25519-sha256", "curve25519-sha256@libssh.org", "mlkem768x25519-sha256")
KEX = {
    "default": _KEX,
    "post-quantum": ("mlkem768x25519-sha256",),
    # Old libraries support one of the last two. Larger groups are left out, because they cost CPU before the login.
    "compatible": (*_KEX, "ecdh-sha2-nistp256", "diffie-hellman-group14-sha256"),
}
#: chacha20-poly1305 is last because it takes twice the CPU here. dropbear has no other AEAD cipher.
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
    "chacha20-poly1305@openssh.com",
)
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
MACS = {"default": _MACS, "post-quantum": _MACS, "compatible": (*_MACS, "hmac-sha2-256")}
SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
