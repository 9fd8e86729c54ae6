"""Nodes: the servers that share one store, and the choice of nodes for one command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

#: The configuration's `node.name` has the same form.
_NODE_NAME = re.compile(r"[^\s,:]{1,64}")
_EVERY = "all"
#: How long a node may act on an old state: then its lease is over, unless it has renewed it.
LEASE_SECONDS = 10


class NodeState(StrEnum):
    """The state of a node: `lost` means that its lease is over and that it has not stopped cleanly."""

    UP = "up"
    LOST = "lost"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Member:
    """One node in `node/list`. `address` is where it listens; `seen_at` has its time zone."""

    name: str
    version: str
    state: NodeState
    sessions: int
    address: str
    seen_at: datetime

    @property
    def label(self) -> str:
        """The name and version of the node, as in the footer: `ds1@ecss1 v.3.14.7.585`."""
        return f"{self.name} v.{self.version}"


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """The nodes of `--on`. Without `names` it means all nodes."""

    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join(self.names) or _EVERY


def is_node_name(text: str) -> bool:
    """Whether a node can have this name."""
    return _NODE_NAME.fullmatch(text) is not None


def parse_node_name(text: str) -> str:
    """Return the name of a node. Raises ValueError."""
    if not is_node_name(text):
        message = f"{text} is not the name of a node: 1 to 64 characters, without blanks, commas and colons"
        raise ValueError(message)
    return text


def parse_node_choice(text: str) -> NodeChoice:
    """Return the nodes of a list such as `ds1@ecss1,ds2@ecss1`, or all nodes for `all`. Raises ValueError."""
    if text == _EVERY:
        return NodeChoice()
    names = text.split(",")
    if "" in names:
        message = "a name is missing; use names with one comma between them and no blank, or all"
        raise ValueError(message)
    if _EVERY in names:
        message = "all stands alone; use all, or the names of nodes"
        raise ValueError(message)
    if len(set(names)) < len(names):
        message = "a node is named twice; name each node once"
        raise ValueError(message)
    return NodeChoice(tuple(parse_node_name(name) for name in names))


def chosen_beginnings(names: Sequence[str], beginning: str) -> list[str]:
    """Return the words for `--on` that begin with `beginning`: its last name completed, or `all`.

    Names that stand before the last comma are not offered again.
    """
    before, comma, last = beginning.rpartition(",")
    given = set(before.split(","))
    choices = [name for name in names if name not in given] if comma else [*names, _EVERY]
    return sorted(before + comma + choice for choice in choices if choice.startswith(last))
