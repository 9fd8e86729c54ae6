"""The cost of `list`, `add`, Tab and a login on stores of different sizes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from servers import Server  # isort: skip  a neighbour, not a package
from speed.client import PERSON, SCRIPT, Batch, Shell
from speed.figures import Figures
from speed.scenes.adds import added
from speed.scenes.lists import listed
from speed.scenes.logins import logged_in

LIST, ADD, LOGIN = "list of the domain's integrations", "add", "login, 16 in flight"
TAB_CLIENT, TAB_DOMAIN = "Tab behind a whole client id", "Tab behind a whole domain's name"
TAB_CLIENTS, TAB_DOMAINS = "Tab where all client ids begin so", "Tab where all domains begin so"
#: These may grow: `list` with what it shows, Tab up to the number of names that it offers.
MAY_GROW = (LIST, TAB_CLIENTS, TAB_DOMAINS)
#: The prefix of all domain names but one; a number follows.
DOMAIN = "pbx{:05d}.local"
_INTERRUPT = "\x03"


@dataclass(frozen=True)
class Size:
    """The number of domains, and of integrations in the first; the other domains have one each."""

    domains: int
    integrations: int

    def sizes(self) -> dict[str, int]:
        """Return the domains with the number of their integrations."""
        return {DOMAIN.format(number): 1 if number else self.integrations for number in range(self.domains)}


@dataclass(frozen=True)
class Repeats:
    """The number of repetitions of each operation in one round."""

    logins: int = 96
    adds: int = 60
    tabs: int = 40
    listed_rows: int = 20_000

    def lists(self, integrations: int) -> int:
        """Return how many lists suffice: many of a short one, one of a long one."""
        return max(1, min(40, self.listed_rows // integrations))


async def play(server: Server, size: Size, label: str, repeats: Repeats, figures: Figures) -> None:
    """Measure one server with one store; its figures get this `label`."""
    domain, note = DOMAIN.format(0), figures.note
    lists, _ = await listed(server, f"domain/{domain}/integrations/list", repeats.lists(size.integrations))
    note(LIST, label, **lists.measures())
    note(ADD, label, **(await _adds(server, domain, repeats.adds)).measures())
    remove = f"domain/{domain}/integrations/remove "
    for row, line, names, end in (
        (TAB_CLIENT, f"{remove}client000000", ["client000000"], " "),
        (TAB_DOMAIN, "domain/pbx00000.local", [domain], "/"),
        (TAB_CLIENTS, f"{remove}cl", [f"client{number:06d}" for number in (0, size.integrations - 1)], ""),
        (TAB_DOMAINS, "domain/pb", [DOMAIN.format(number) for number in (0, size.domains - 1)], ""),
    ):
        note(row, label, **(await _tabs(server, line, os.path.commonprefix(names) + end, repeats.tabs)).measures())  # noqa: RUF071  names, not paths
    note(LOGIN, label, **(await logged_in(server, repeats.logins)).measures())


async def _adds(server: Server, domain: str, count: int) -> Batch:
    """Add this many, and remove them uncounted, so that each round starts with the same store."""
    batch, shell = Batch(server), await Shell.opened(server, SCRIPT)
    path = f"domain/{domain}/integrations"
    for number in range(count):
        with batch, batch.one():
            await added(shell, f"{path}/add new{number}")
    for number in range(count):
        await shell.line(f"{path}/remove new{number}")
    await shell.close()
    return batch


async def _tabs(server: Server, line: str, whole: str, count: int) -> Batch:
    """Type a line, press Tab, wait until its last word is the `whole` one; then drop the line."""
    inserted = whole[len(line.rsplit(maxsplit=1)[-1].rpartition("/")[2]) :]
    batch, shell = Batch(server), await Shell.opened(server, PERSON)
    for _ in range(count):
        await shell.press(line, line)
        with batch, batch.one():
            await shell.press("\t", inserted)
        await shell.press(_INTERRUPT, "$ ")
    await shell.close()
    return batch
