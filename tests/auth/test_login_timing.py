"""Failed logins get equal answers after equal work, so a client learns nothing about users.

The tests count the work that the server logs for each login. The scorecard measures the times.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import paramiko
import pytest
from console import PASSWORD, ConsoleServer, needs
from weak_keys import stored, weak_rsa

#: Logs each costly step of a login on standard error, then serves.
_COUNTED = """
import sys
import asyncssh
from argon2 import _password_hasher
from asyncssh.auth_keys import SSHAuthorizedKeys
from server.auth import authenticator
from server.model import access
from server.storage import credentials, users

def told(kind, name, about=lambda words: ""):
    step = getattr(kind, name)
    def telling(*words, **more):
        sys.stderr.write(f"did {name} {about(words)}\\n")
        return step(*words, **more)
    setattr(kind, name, telling)

told(_password_hasher, "verify_secret", lambda words: words[0].split(b"$")[3].decode())
told(asyncssh.SSHKey, "verify")
told(asyncssh, "import_authorized_keys")
told(SSHAuthorizedKeys, "validate")
told(authenticator, "weakness")
told(credentials, "by_name")
told(credentials, "by_key")
told(users, "find")
told(access.User, "__init__")
from server.__main__ import main
sys.exit(main(["serve"]))
"""


@dataclass(frozen=True)
class Refusal:
    """The server's answer to a client, and its work for it."""

    told: tuple[object, ...]
    did: tuple[str, ...]


@dataclass
class Stranger:
    """A client that tries to log in and notes the result."""

    console: ConsoleServer
    seen: pytest.LogCaptureFixture
    key: Path
    certificate: Path

    async def refused(self, way: str, name: str, password: str = "") -> Refusal:
        """Return the result of a login that must fail."""
        before = len(self.console.log)
        self.seen.clear()
        if way == "key, signed at once":
            return Refusal((await asyncio.to_thread(self._signed, name),), self._work(before))
        words: dict[str, object] = {"client_keys": None, "preferred_auth": way}
        if way == "certificate":
            words = {"client_keys": [str(self.certificate)], "preferred_auth": "publickey"}
        elif way == "publickey":
            words["client_keys"] = [str(self.key)]
        else:
            words["password"] = password
        with pytest.raises(asyncssh.PermissionDenied) as refused:
            await self.console.connected(username=name, **words)
        packets = [each.packet for each in self.seen.records if "Received MSG_USERAUTH" in each.getMessage()]  # type: ignore[attr-defined]
        assert len(packets) > 1
        return Refusal((refused.value.reason.replace(name, "USER"), *packets), self._work(before))

    def _signed(self, name: str) -> str:
        """Send key and signature at once, as paramiko does, without a query first."""
        key = paramiko.Ed25519Key.from_private_key_file(str(self.key))
        with (
            pytest.raises(paramiko.AuthenticationException) as refused,
            self.console.paramiko(username=name, password=None, pkey=key),
        ):
            pass
        return str(refused.value)

    def _work(self, before: int) -> tuple[str, ...]:
        """Return the logged steps. The answer to SIGUSR1 follows all of them."""
        assert self.console.process is not None
        self.console.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not any(" now: " in line for line in self.console.log[before:]):
            assert time.monotonic() < deadline, "SIGUSR1 is not answered"
            time.sleep(0.01)
        return tuple(line.strip() for line in self.console.log[before:] if line.startswith("did "))


def _key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def _certificate(authority: Path, path: Path, *principals: str) -> Path:
    words = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", ",".join(principals), f"{_key(path)}.pub"]
    subprocess.run(words, check=True)
    return path


def _add(console: ConsoleServer, name: str, *, key: Path | None, password: str = "") -> None:
    words = ["--authorized-key", f"{key}.pub"] if key else []
    words += ["--password-stdin"] if password else []
    assert console.program("user", "add", name, *words, text=f"{password}\n").returncode == 0


@pytest.fixture(params=["", "with authorities"])
def stranger(
    stopped_console: ConsoleServer,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> Iterator[Stranger]:
    """A server that logs its work, with users of every kind and their credentials."""
    console, folder = stopped_console, tmp_path_factory.mktemp("owned")
    key, authority = _key(folder / "id"), _key(folder / "ca")
    lines = [f"auth: {{trusted_user_ca_keys: {authority}.pub}}"] if request.param else []
    lines.append("limits: {per_source_penalties: false}")
    (console.folder / "config.yaml").write_text("\n".join(lines))
    for name in ("locked", "expired", "both"):
        _add(console, name, key=key, password=PASSWORD)
    _add(console, "keysonly", key=console.key)
    _add(console, "passwordonly", key=None, password=PASSWORD)
    console.launcher = (sys.executable, "-c", _COUNTED)
    console.start()
    for change in ("lock locked", "lock both", "set both --expires 2020-01-01", "set expired --expires 2020-01-01"):
        console.run(f"cocon/user/{change}")
    certificate = _certificate(authority, folder / "certified", "locked", "expired", "both", "another")
    asyncssh.set_debug_level(3)
    with caplog.at_level(logging.DEBUG, "asyncssh"):
        yield Stranger(console, caplog, key, certificate)
    asyncssh.set_debug_level(1)


_WRONG = {
    "nobody": "unknown user",
    "admin": "wrong password",
    "passwordonly": "wrong password",
    "keysonly": "wrong password",
    "locked": "wrong password",
    "expired": "wrong password",
    "both": "wrong password",
}
_RIGHT = {"locked": "locked", "expired": "expired", "both": "locked"}


@pytest.mark.slow
async def test_unknown_wrong_locked_and_expired_get_the_same_answer_after_the_same_work(stranger: Stranger) -> None:
    console = stranger.console
    for way in ("password", "keyboard-interactive"):
        usual = await stranger.refused(way, "nobody", "wrong")
        assert usual.did.count("did verify_secret m=19456,t=2,p=1") == 1
        for password, users in (("wrong", _WRONG), (PASSWORD, _RIGHT)):
            for name, reason in users.items():
                assert await stranger.refused(way, name, password) == usual, (way, name, reason)
                assert console.logs(f"login of {name} from 127.0.0.1:", f"failed by password: {reason}")
    expected = {(name, f"password: {why}") for told in (_WRONG, _RIGHT) for name, why in told.items()}
    assert console.stop() == 0  # all records are stored by then
    failed = [record for record in console.audit() if record["event"] == "login.failed"]
    assert {(record["user_name"], record["detail"]) for record in failed} == expected


@pytest.mark.slow
async def test_a_refused_key_reveals_no_user(stranger: Stranger) -> None:
    for way in ("publickey", "key, signed at once", "certificate"):
        usual = await stranger.refused(way, "nobody")
        assert "did verify_secret" not in " ".join(usual.did)
        for name in ("admin", "keysonly", "passwordonly", "locked", "expired", "both"):
            assert await stranger.refused(way, name) == usual, (way, name)


@pytest.mark.slow
async def test_field_a_weak_key_is_refused_like_an_unknown_key(stranger: Stranger, tmp_path: Path) -> None:
    """A client with only the public half gets the same packets after the same work."""
    needs("openssl")
    stranger.key, line = weak_rsa(tmp_path)
    stored(stranger.console, "admin", line)
    stored(stranger.console, "locked", line)
    usual = await stranger.refused("publickey", "nobody")
    assert sum(each.startswith("did weakness") for each in usual.did) == 1
    for name in ("admin", "locked", "keysonly"):
        assert await stranger.refused("publickey", name) == usual, name
    assert stranger.console.logs("login of admin from 127.0.0.1:", "weak key: RSA of 1024 bits")
