"""The URL of a PostgreSQL database: libpq's form, and clear mistakes that never repeat a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.config import Config, load_config
from server.config.postgresql_url import parse_postgresql_url
from server.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "hosts", "shown"),
    [
        ("postgresql://console@db/ecss", (("db", 5432),), "postgresql://console@db/ecss"),
        ("postgres://console@db:6000/ecss", (("db", 6000),), "postgresql://console@db:6000/ecss"),
        (
            "postgresql://console@db1:6000,db2/ecss?target_session_attrs=read-write",
            (("db1", 6000), ("db2", 5432)),
            "postgresql://console@db1:6000,db2/ecss",
        ),
        (
            "postgresql://console@/ecss?host=/run/postgresql&port=6000",
            (("/run/postgresql", 6000),),
            "postgresql://console@/run/postgresql:6000/ecss",
        ),
        ("postgresql://console@[::1]:6000/ecss", (("::1", 6000),), "postgresql://console@[::1]:6000/ecss"),
        ("postgresql:///ecss?host=a,b&user=u&port=1,2", (("a", 1), ("b", 2)), "postgresql://u@a:1,b:2/ecss"),
        ("postgresql://a%40b@db/e%20s", (("db", 5432),), "postgresql://a%40b@db/e%20s"),
        (
            "postgresql://console@db/ecss?sslmode=verify-full",
            (("db", 5432),),
            "postgresql://console@db/ecss?sslmode=verify-full",
        ),
    ],
)
def test_a_url_names_user_hosts_and_database(text: str, hosts: tuple[tuple[str, int], ...], shown: str) -> None:
    url = parse_postgresql_url(text)
    assert url.hosts == hosts
    assert str(url) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("postgresql://console:hunter2@db/ecss", "storage.password_file"),
        ("postgresql://console@db/ecss?password=hunter2", "storage.password_file"),
        ("postgresql://console@db/", "is expected"),
        ("postgresql://db/ecss", "is expected"),
        ("postgresql://console@/ecss", "is expected"),
        ("postgresql://console@db:0/ecss", "a port is a number from 1 to 65535"),
        ("postgresql://console@db:x/ecss", "a port is a number from 1 to 65535"),
        ("postgresql://console@a,b,c/ecss?port=1,2", "one port for each host"),
        ("postgresql://console@db/ecss?sslmod=verify-full", "the parameter sslmod is not known"),
        ("postgresql://console@db/ecss?sslmode=yes", "sslmode is one of"),
        ("postgresql://console@db/ecss?target_session_attrs=standby", "read-write"),
        ("postgresql://console@[::1/ecss", "is expected"),
        ("postgresql://console@db/ecss#x", "is expected"),
        ("postgresql://console@db/a/b", "is expected"),
        ("postgresql://console@db..local/ecss", "db..local is no name of a host"),
        (f"postgresql://console@{'d' * 64}.local/ecss", "has 1 to 63 characters"),
        ("postgresql://console@db/ecss?sslmode=verify-full&sslmode=disable", "a parameter is given twice"),
        ("postgresql://console@db/ecss?sslrootcert=ca.pem", "sslrootcert counts only with sslmode=require"),
        ("postgresql://console@db/ecss?sslmode=prefer&sslcrl=ca.crl", "sslcrl counts only with sslmode=require"),
    ],
)
def test_a_wrong_url_is_one_clear_mistake_without_its_password(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f'storage:\n  url: "{text}"\n')
    with pytest.raises(ConfigurationError) as refused:
        load_config(path, {})
    (mistake,) = refused.value.mistakes
    assert ":2: storage.url: " in mistake
    assert message in mistake
    assert "hunter2" not in mistake


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        'storage: {url: "postgresql://c@db/e?sslmode=verify-full&sslrootcert=ca.pem", password_file: secret}\n'
    )
    config = load_config(path, {})
    assert config.postgresql is not None
    assert config.postgresql.parameters["sslrootcert"] == str(tmp_path / "ca.pem")
    assert config.database_password == tmp_path / "secret"
    assert config.store_name == "postgresql://c@db/e?sslmode=verify-full"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "database.password").write_text("x\n")
    passed = load_config(path, {"CREDENTIALS_DIRECTORY": str(credentials)})
    assert passed.database_password == credentials / "database.password"
    assert Config().postgresql is None
