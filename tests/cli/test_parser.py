"""The command line becomes a typed, frozen value; no code behind the parser uses argparse."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from server.backup.options import CreateOptions, RestoreOptions
from server.cli.parser import INTERRUPTED, parse
from server.cli.users import AddOptions
from server.model.access import Role

OPTIONS = [
    (("user", "add", "eve"), AddOptions("eve", role=Role.ADMIN)),
    (
        ("user", "add", "eve", "--role", "viewer", "--authorized-key", "a", "--authorized-key", "b"),
        AddOptions("eve", authorized_keys=(Path("a"), Path("b")), role=Role.VIEWER),
    ),
    (
        ("backup", "f", "--recipient", "age1", "--identity", "i", "--force", "--scratch", "s"),
        CreateOptions(Path("f"), None, ("age1",), identities=(Path("i"),), replace=True, scratch=Path("s")),
    ),
    (
        ("restore", "f", "--passphrase-file", "-", "--verify-only", "--foreign"),
        RestoreOptions(Path("f"), "-", verify_only=True, foreign=True),
    ),
]


@pytest.mark.parametrize(("words", "expected"), OPTIONS)
def test_options_are_a_value(words: tuple[str, ...], expected: object) -> None:
    subcommand = parse([*words, "--config", "c.yaml"])
    assert subcommand.configuration == Path("c.yaml")
    assert subcommand.interrupted == INTERRUPTED
    assert isinstance(subcommand.run, partial)
    assert subcommand.run.args[-1] == expected
    assert hash(subcommand.run.args[-1]) == hash(expected)  # frozen all the way down


def test_a_wrong_role_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["user", "add", "eve", "--role", "root"])
    assert ended.value.code == 2
    assert "invalid choice: 'root' (choose from" in capsys.readouterr().err
