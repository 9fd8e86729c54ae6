"""The input of every scene: all contenders, the running ones, and repetition counts."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from servers import OURS, Server  # isort: skip  a neighbour, not a package
from speed.contenders import Contender
from speed.figures import Figures

#: Sizes of the domains that are listed.
FEW, SOME, MANY = 5, 500, 10_000


def domain_of(size: int) -> str:
    """Return the domain with this number of integrations."""
    return f"d{size}.local"


def list_of(size: int) -> str:
    """Return the command that lists them."""
    return f"domain/{domain_of(size)}/integrations/list"


@dataclass(frozen=True)
class Counts:
    """The repetitions of each operation on each server in one round."""

    rounds: int = 3
    logins: int = 160
    execs: int = 500
    lines: int = 500
    typed_lines: int = 15
    lists_of_some: int = 20
    lists_of_many: int = 3
    adds: int = 150
    writers: int = 32
    adds_of_each: int = 12
    shells: tuple[int, int] = (100, 500)
    fair_lists: int = 3
    alone_seconds: float = 1.0
    starts: int = 3

    @classmethod
    def quick(cls) -> Counts:
        """One round, enough to show the effect of a change."""
        return cls(rounds=1, execs=300, lines=300, lists_of_many=2, adds=80, adds_of_each=8, fair_lists=2)

    @classmethod
    def tiny(cls) -> Counts:
        """Enough to show that the benchmark itself works."""
        return cls(
            rounds=1,
            logins=4,
            execs=4,
            lines=4,
            typed_lines=1,
            lists_of_some=1,
            lists_of_many=1,
            adds=4,
            writers=4,
            adds_of_each=2,
            shells=(2, 4),
            fair_lists=1,
            alone_seconds=0.1,
            starts=1,
        )


@dataclass
class Stage:
    """The running servers, ours first, and the folder for further ones."""

    folder: Path
    counts: Counts
    contenders: list[Contender]
    servers: list[Server] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    round: int = 0

    @property
    def ours(self) -> Server:
        """Our server."""
        return next(server for server in self.servers if server.name == OURS)

    def in_turn(self) -> list[Server]:
        """Return the servers, with another first one in each round."""
        first = self.round % len(self.servers)
        return self.servers[first:] + self.servers[:first]

    @asynccontextmanager
    async def fresh(self, contender: Contender) -> AsyncIterator[Server]:
        """Give a new server with the same store as the others."""
        server = await contender.start()
        try:
            yield server
        finally:
            server.kill()


def folder_on_disk() -> tempfile.TemporaryDirectory[str]:
    """Make a folder beside the checkout, which is on a disk. /tmp may be memory, where fsync is free."""
    place = Path(__file__).parent.parent.parent / "build"
    place.mkdir(exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="bench-", dir=place)
