"""The example has every configuration key with its default; all mistakes are reported with their place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from console import ConsoleServer
from pydantic import BaseModel

from server.config import Config, load_config
from server.errors import ConfigurationError

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def _keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, object, str]]:
    """Yield (dotted name, default, explanation) of every key."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", field.default, str(field.description)


def test_the_example_names_every_key_with_its_default_and_explanation() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    given = yaml.safe_load(text)
    found = {f"{section}.{key}": value for section, keys in given.items() for key, value in keys.items()}
    expected = {name: list(default) if isinstance(default, tuple) else default for name, default, _ in _keys(Config)}
    assert found == expected
    for name, _, explanation in _keys(Config):
        assert explanation in text, name


def test_the_example_is_a_configuration() -> None:
    assert load_config(EXAMPLE, {}).model_dump() == Config().model_dump()


def test_without_a_file_there_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}).model_dump() == Config().model_dump()
    (tmp_path / "config.yaml").write_text("listen:\n  port: 2222\n")
    assert load_config(None, {}).listen.port == 2222
    (tmp_path / "config.yaml").write_text("listen:\n# all commented out\n")
    assert load_config(None, {}).model_dump() == Config().model_dump()


def test_paths_are_relative_to_the_file_and_four_slashes_are_absolute(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "console.yaml"
    path.parent.mkdir()
    path.write_text('storage: {url: "sqlite:///data/c.db"}\nkeys: {dir: secrets}\n')
    config = load_config(path, {})
    assert (config.database, config.keys_dir) == (path.parent / "data" / "c.db", path.parent / "secrets")
    path.write_text('storage: {url: "sqlite:////srv/c.db"}\nkeys: {dir: /srv/keys}\n')
    config = load_config(path, {})
    assert (config.database, config.keys_dir) == (Path("/srv/c.db"), Path("/srv/keys"))


def test_the_environment_overrides(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("listen: {host: 0.0.0.0, port: 1}\n")
    environment = {
        "ECSS_CONSOLE_LISTEN__PORT": "2222",
        "ECSS_CONSOLE_LIMITS__PER_SOURCE_PENALTY_EXEMPT_LIST": "[127.0.0.1, 10.0.0.0/8]",
        "ECSS_CONSOLE_LIMITS__PER_SOURCE_PENALTIES": "false",
        "ECSS_CONSOLE_NODE__VERSION": "3.15",
        "PATH": "/bin",
    }
    config = load_config(path, environment)
    assert (config.listen.host, config.listen.port) == ("0.0.0.0", 2222)  # noqa: S104  compared, not bound
    assert config.limits.per_source_penalty_exempt_list == ("127.0.0.1", "10.0.0.0/8")
    assert config.limits.per_source_penalties is False
    assert config.node.version == "3.15"


def test_all_configuration_mistakes_are_reported_with_name_and_line(stopped_console: ConsoleServer) -> None:
    (stopped_console.folder / "config.yaml").write_text(
        "listen:\n"
        "  host: 127.0.0.1\n"
        "  port: 99999\n"
        "  prot: 22\n"
        "node: {version: 3.14}\n"
        "storage:\n"
        "  url: mysql://somewhere\n"
        "limits:\n"
        "  max_startups: many\n"
        "  per_source_penalty_exempt_list:\n"
        "    - 127.0.0.1\n"
        "    - next door\n"
        "  max_auth_tries: 3\n"
        "  max_auth_tries: 4\n"
        "keepalive: yes\n"
        "tea: {}\n"
    )
    for words in (("config", "check"), ("serve",), ("user", "list"), ("init",)):
        ran = stopped_console.program(*words)
        assert ran.returncode == 78
        lines = sorted(line.removeprefix("ecss-console: config.yaml:") for line in ran.stderr.splitlines())
        expected = [
            (
                "12: limits.per_source_penalty_exempt_list.1: ",
                "'next door' does not appear to be an IPv4 or IPv6 network",
            ),
            ("14: limits.max_auth_tries: ", "stands twice, first at config.yaml:13"),
            ("15: keepalive: ", "keys are expected below it"),
            ("16: tea: ", "there is no such key; config.example.yaml names them all"),
            ("4: listen.prot: ", "there is no such key"),
            ("5: node.version: ", "text is expected; put it in quotes"),
            (
                "7: storage.url: ",
                "sqlite:///FILE (relative), sqlite:////FILE (absolute) or postgresql://USER@HOST/DATABASE is expected",
            ),
            ("9: limits.max_startups: ", "start:rate:full is expected"),
        ]
        # the port comes from the environment of the test's server and hides the one in the file
        assert len(lines) == len(expected), ran.stderr
        for line, (place, text) in zip(lines, expected, strict=True):
            assert line.startswith(place), line
            assert text in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listen: [", "config.yaml:1: this is no YAML"),
        ("- a\n- b\n", "config.yaml:1: sections are expected"),
        ("listen: {port: 99999}\n", "config.yaml:1: listen.port: input should be less than or equal to 65535"),
        ("listen: {port: ssh}\n", "config.yaml:1: listen.port: input should be a valid integer"),
        ("node: {name: 'two words'}\n", "config.yaml:1: node.name: "),
        ("limits: {max_startups: '10:30:5'}\n", "full not below start"),
        (
            "limits: {per_source_net_block_size: '33:128'}\n",
            "bits of IPv4, 0 to 32, and of IPv6, 0 to 128, are expected",
        ),
        ("limits: {per_source_net_block_size: '32'}\n", 'are expected, as in "32:64"'),
        ("listen: 22\n", "config.yaml:1: listen: keys are expected below it"),
        ("listen: {port: true}\n", "config.yaml:1: listen.port: a whole number is expected"),
        ("listen: {port: !!int abc}\n", "config.yaml:1: listen.port: this is no value"),
        ("node: {version: 2001-99-99}\n", "config.yaml:1: node.version: this is no value: month must be in 1..12"),
        ("listen: {port: !foo 3}\n", "config.yaml:1: listen.port: this is no value"),
        ("listen: &a {port: *a}\n", "listen.port: aliases (*) are not taken"),
        ("listen: " + "[" * 5000, "config.yaml: this is no YAML: it is nested too deeply"),
        ("listen: \x07\n", "config.yaml: this is no YAML: special characters are not allowed"),
        ('keys: {dir: "a\\0b"}\n', "keys.dir: the character NUL cannot be part of it"),
        ('storage: {url: "sqlite:///."}\n', "storage.url: sqlite:///FILE (relative)"),
        ("node: {name: all}\n", "node.name: visible characters are expected, and another name than `all`"),
        ("limits: {per_source_penalty_exempt_list: [a, b]}\n", "per_source_penalty_exempt_list.1: 'b' does not"),
        ("base: /etc\n", "config.yaml:1: base: there is no such key"),
    ],
)
def test_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_config(None, {})
    assert said in str(refused.value)


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_config(EXAMPLE, {"ECSS_CONSOLE_LISTEN__PORT": "x", "ECSS_CONSOLE_TEA": "1", "ECSS_CONSOLE_A__B": "1"})
    assert [mistake.partition(": ")[0] for mistake in refused.value.mistakes] == [
        "ECSS_CONSOLE_TEA",
        "environment ECSS_CONSOLE_LISTEN__PORT",
        "environment ECSS_CONSOLE_A__B",
    ]


def test_a_missing_or_binary_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml", {})
    (tmp_path / "raw.yaml").write_bytes(b"\xe9\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not UTF-8 text"):
        load_config(tmp_path / "raw.yaml", {})


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("0.0.0.0:0", "other machines can reach 0.0.0.0: metrics.public: true allows it"),
        ("localhost:0", "an address and a port are expected"),
        ("127.0.0.1", "an address and a port are expected"),
        ("127.0.0.1:65536", "an address and a port are expected"),
        ("::1:1", "an address and a port are expected"),
    ],
)
def test_a_public_metrics_listener_needs_the_public_setting(listen: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_config(EXAMPLE, {"ECSS_CONSOLE_METRICS__LISTEN": listen})
    assert f"metrics.listen: {said}" in str(refused.value)


def test_loopback_and_declared_public_metrics_listeners_are_accepted() -> None:
    for listen in ("0.0.0.0:9823", "[::]:0"):
        environment = {"ECSS_CONSOLE_METRICS__LISTEN": listen, "ECSS_CONSOLE_METRICS__PUBLIC": "true"}
        assert load_config(EXAMPLE, environment).metrics.listen == listen
    assert load_config(EXAMPLE, {"ECSS_CONSOLE_METRICS__LISTEN": "[::1]:9823"}).metrics.listen == "[::1]:9823"
