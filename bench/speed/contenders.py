"""The measured servers: our console, the two peers if their compilers are installed, and bare asyncssh."""

from __future__ import annotations

import asyncio
import compileall
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servers import OURS, Server  # isort: skip  a neighbour, not a package

ERLANG, GO, LIBRARY = "Erlang", "Go", "asyncssh"
_HERE = Path(__file__).parent.parent
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.001


@dataclass(frozen=True)
class Contender:
    """How to start one server. `port_name` is the environment variable for its port."""

    name: str
    words: tuple[str, ...]
    folder: Path
    key: Path
    port_name: str
    environment: Mapping[str, str]

    async def start(self) -> Server:
        """Start it on a free port and return when its SSH banner has come."""
        port = _free_port()
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(  # noqa: ASYNC220  its fork is part of what is measured
                self.words,
                cwd=self.folder,
                env={**os.environ, **self.environment, self.port_name: str(port)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        server = Server(self.name, process, port, self.key, self.folder / "log")
        try:
            await _banner(server)
        except BaseException:
            server.kill()
            raise
        return server


async def _banner(server: Server) -> None:
    """Wait for the SSH banner. Raises RuntimeError with the server's log if none comes."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        except OSError:
            await asyncio.sleep(_LOOK_SECONDS)
            continue
        greeting = await reader.readline()
        writer.transport.abort()
        if greeting.startswith(b"SSH-2.0-"):
            return
    message = f"{server.name} does not start:\n{server.logged()}"
    raise RuntimeError(message)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ours(folder: Path, key: Path, configuration: str = "", name: str = OURS) -> Contender:
    """Prepare our console, compiled as by `make install`: a store with the user `admin`, who logs in with `key`.

    `configuration` is the text of its config.yaml. A second node of a store leaves the user as it is.
    """
    compileall.compile_dir(_HERE.parent / "server", quiet=1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(configuration)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECSS_CONSOLE_")}
    words = (sys.executable, "-m", "server")
    added = [*words, "user", "add", "admin", "--authorized-key", f"{key}.pub"]
    adding = subprocess.run(added, cwd=folder, env=kept, check=False, capture_output=True, text=True)
    if adding.returncode and "exists already" not in adding.stderr:
        raise RuntimeError(adding.stderr)
    return Contender(name, (*words, "serve"), folder, key, "ECSS_CONSOLE_LISTEN__PORT", {})


def peers(folder: Path, key: Path, replies: Mapping[str, bytes]) -> list[Contender]:
    """Prepare the peers that can be built here; print the others. They answer each command with its reply."""
    found = []
    for name, needs, build in (
        (ERLANG, "erlc (Debian: erlang-base erlang-ssh)", _erlang),
        (GO, "go (Debian: golang-go golang-golang-x-crypto-dev golang-golang-x-term-dev)", _go),
        (LIBRARY, "python3", _library),
    ):
        if shutil.which(needs.split()[0]) is None:
            print(f"no peer {name}: there is no {needs}")
            continue
        inside = folder / name
        (inside / "replies").mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(inside / "host_key")], check=True)
        shutil.copy(f"{key}.pub", inside / "authorized_key")
        for command, reply in replies.items():
            (inside / "replies" / command.replace("/", "_")).write_bytes(reply)
        try:
            words, environment = build(inside)
        except subprocess.CalledProcessError:  # the compiler has printed the reason; its libraries may be missing
            print(f"no peer {name}: it does not compile; it needs {needs}")
            continue
        environment |= {"PEER_DIR": str(inside)}
        found.append(Contender(name, words, inside, key, "PEER_PORT", environment))
    return found


def _erlang(folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    for name, file in (("sys/ssh_host_ed25519_key", "host_key"), ("user/authorized_keys", "authorized_key")):
        (folder / name).parent.mkdir()
        shutil.copy(folder / file, folder / name)
    subprocess.run(["erlc", "-o", str(folder), str(_HERE / "peers" / "console_peer.erl")], check=True)
    words = ("erl", "+Bd", "-noinput", "-noshell", "-pa", str(folder), "-s", "console_peer", "start")
    return words, {"HOME": str(folder)}


def _go(folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    cache = _HERE.parent / "build" / "go"  # half a minute of compiling, once
    settings = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(cache), "GOFLAGS": ""}
    program = str(folder / "peer")
    words = ["go", "build", "-o", program, str(_HERE / "peers" / "console_peer.go")]
    subprocess.run(words, env={**os.environ, **settings}, check=True)
    return (program,), {}


def _library(_folder: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    return (sys.executable, str(_HERE / "peers" / "console_peer.py")), {}
