"""An administrator sees the same system at every node."""

from __future__ import annotations

import re

import pytest
from console import needs
from nodes import Pair, until
from terminals import Person

_KEY = re.compile(r"API key: ([A-Za-z0-9]{64})")


def test_a_key_that_is_added_on_one_node_is_listed_on_the_other(pair: Pair) -> None:
    pair.one.run("domain/declare Biysk.local")
    found = _KEY.search(pair.one.run("domain/biysk.local/integrations/add tester"))
    assert found is not None
    listed = pair.two.run("domain/biysk.local/integrations/list")
    assert found[1] in listed
    assert listed.rstrip().endswith("nodes: ds2@ecss1 v.3.14.7.585]")


@pytest.mark.parametrize("change", ["integrations/replace gone", "integrations/remove gone", ""])
def test_a_key_that_is_dead_on_one_node_is_dead_on_the_other_at_once(pair: Pair, change: str) -> None:
    domain = f"dead{len(change)}.local"
    pair.one.run(f"domain/declare {domain}")
    found = _KEY.search(pair.one.run(f"domain/{domain}/integrations/add gone"))
    assert found is not None
    assert found[1] in pair.two.run(f"domain/{domain}/integrations/list")
    pair.one.run(f"domain/{domain}/{change}" if change else f"domain/remove {domain} --force")
    after = pair.two.ssh(f"domain/{domain}/integrations/list")
    assert found[1] not in after.stdout.decode()


def test_the_history_follows_the_user(pair: Pair) -> None:
    needs("tmux")
    someone = Person(pair.one, str(pair.one.folder / "tmux"))
    try:
        someone.types("ls cocon --long", "Enter")
        someone.sees("exec time")
        until(lambda: "ls cocon --long" in pair.two.run("history"))
    finally:
        someone.leaves()


def test_the_audit_of_both_nodes_is_one_and_whole(pair: Pair) -> None:
    pair.two.run("domain/declare audited.local")
    until(lambda: "audited.local" in pair.one.run("cocon/audit/list --last 50"))
    for node in (pair.one, pair.two):
        verified = node.program("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "ds1@ecss1: " in verified.stdout
        assert "ds2@ecss1: " in verified.stdout
