"""The service user prepares its folder for root's backup and restore. Root must not be misled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console import ConsoleServer
from service import SECRET, UID, Service, become_service, needs_root, public_folder

PLAN = json.dumps({"aside": ".before-restore-20261128T000000Z"})
BACKUP = ("backup", "b.age", "--unencrypted", "--storage-key-in-clear", "--force")
#: Every name that the program opens, makes, renames or removes in the service's folder.
NAMES = (
    *("console.db", "console.db-wal", "console.db-shm", "console.db-journal", "console.db.lock", "console.db.new"),
    *("console.db.scratch-1", "console.db.schema-3", "console.db.restoring", "console.db.restoring/plan.json"),
    *("console.db.restoring/keys", "console.db.restoring/keys/storage.key", "console.db.restoring/console.db"),
    *("keys", "keys/storage.key", "keys/storage.key.new", "keys/ssh_host_ed25519_key", "keys/ssh_host_ed25519_key.new"),
    *("keys/ssh_host_ed25519_key.pub", "keys/ssh_host_ed25519_key_next", "keys/ssh_host_ed25519_key_next.pub"),
    *("keys/ssh_host_ed25519_key_next.new", "keys/ssh_host_ecdsa_key", "keys/ssh_host_ecdsa_key.new"),
    "keys/ssh_host_ecdsa_key.pub",
)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service's store, its storage key readable by root only, and the current folder `etc`."""
    needs_root()
    with public_folder() as folder:
        made = Service.make(folder)
        monkeypatch.chdir(made.etc)
        yield made
        monkeypatch.undo()


def _restoring(plan: str = PLAN) -> None:
    """Create the files that a killed restore leaves."""
    Path("console.db.restoring/keys").mkdir(parents=True)
    Path("console.db.restoring/plan.json").write_text(plan)


def test_attack_finishing_a_restore_reads_no_root_file(service: Service) -> None:
    """Root once followed a link among the staged keys and copied its target into the service folder."""

    def plant() -> None:
        _restoring()
        Path("console.db.restoring/keys/ssh_host_ed25519_key").symlink_to(service.home / "secret")

    service.plants(plant)
    ran = service.program(*BACKUP)
    assert ran.returncode == 1
    assert "was not left by a restore" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert SECRET not in service.readable()
    assert (service.var / "console.db.restoring" / "plan.json").exists(), "nothing was changed"


def test_attack_root_does_not_write_through_a_linked_keys_folder(service: Service) -> None:
    """Root once put files chosen by the service into a folder of root."""

    def plant() -> None:
        _restoring()
        Path("console.db.restoring/keys/ssh_host_ed25519_key").write_text("ssh-ed25519 AAAA attacker")
        Path("keys").rename("keys.mine")
        Path("keys").symlink_to(service.home)

    before = service.roots()
    service.plants(plant)
    for words in (BACKUP, ("user", "list"), ("hostkey", "rotate"), ("restore", "b.age", "--force")):
        ran = service.program(*words)
        assert ran.returncode == 1
        assert "Traceback" not in ran.stderr
    assert service.roots() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"aside": 1}',
        '{"aside": "/../../x"}',
        '{"aside": ".old"}',
        "[" * 3000,
        '{"aside": "' + "x" * 9000,
    ],
    ids=range(9),
)
def test_attack_an_invalid_restore_plan_changes_nothing(service: Service, plan: str) -> None:
    def plant() -> None:
        _restoring(plan)
        Path("console.db.restoring/keys/storage.key").write_text("x")

    service.plants(plant)
    before = sorted(service.var.rglob("*"))
    ran = service.program("user", "list")
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "plan.json" in ran.stderr or "larger than" in ran.stderr
    assert "nothing was changed" in ran.stderr
    assert sorted(service.var.rglob("*")) == [*before, service.var / "console.db.lock"] or (
        sorted(service.var.rglob("*")) == before
    )


@pytest.mark.parametrize("name", ["authorized_keys", "storage.key"])
def test_attack_a_key_missing_from_every_backup_is_not_installed(service: Service, name: str) -> None:
    def plant() -> None:
        _restoring()
        Path("console.db.restoring/keys", name).write_text("no key")

    service.plants(plant)
    ran = service.program("user", "list")
    assert ran.returncode == 1
    assert "nothing was changed" in ran.stderr or "is no storage key" in ran.stderr
    assert not (service.var / "keys" / name).exists()


def _link_to_file(path: Path, service: Service) -> None:
    path.symlink_to(service.home / "secret")


def _link_to_folder(path: Path, service: Service) -> None:
    path.symlink_to(service.home)


def _fifo(path: Path, _service: Service) -> None:
    os.mkfifo(path)


def _folder(path: Path, _service: Service) -> None:
    path.mkdir()
    (path / "inside").touch()


def _hard_link(path: Path, service: Service) -> None:
    os.link(service.home / "secret", path)


@pytest.mark.slow
@pytest.mark.parametrize("put", [_link_to_file, _link_to_folder, _fifo, _folder, _hard_link])
def test_attack_root_follows_no_planted_file(
    service: Service, tmp_path: Path, put: Callable[[Path, Service], None]
) -> None:
    """Links, FIFOs, folders and hard links take every name that root's subcommands touch."""
    fresh = tmp_path / "fresh"
    shutil.copytree(service.var, fresh)
    before = service.roots()
    assert service.as_root(BACKUP) == [0]
    restore = ("restore", "b.age", "--force")
    for name in NAMES:
        shutil.rmtree(service.var)
        shutil.copytree(fresh, service.var)
        path = service.var / name
        if name.startswith("console.db.restoring/"):
            (service.var / "console.db.restoring" / "keys").mkdir(parents=True)
            (service.var / "console.db.restoring" / "plan.json").write_text(PLAN)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        put(path, service)
        for each in (service.var, *service.var.rglob("*")):
            if each.lstat().st_nlink == 1 or each.is_dir():
                os.chown(each, UID, UID, follow_symlinks=False)
        statuses = service.as_root(("hostkey", "rotate"), BACKUP, restore, ("user", "list"))
        assert set(statuses) <= {0, 1}, name
        assert service.roots() == before, name
        assert SECRET not in service.readable(), name
        owners = {each: each.lstat().st_uid for each in service.var.rglob("*") if each.lstat().st_nlink == 1}
        assert set(owners.values()) == {UID}, name


@pytest.mark.slow
def test_attack_files_swapped_between_check_and_use_do_not_mislead_root(service: Service) -> None:
    """The keys folder, a staged key and the database turn into links and back while root works."""
    before = service.roots()
    child = os.fork()
    if child == 0:
        become_service()
        os.chdir(service.var)
        _restoring()
        Path("console.db.restoring/keys/ssh_host_ed25519_key").write_text("mine")
        Path("a").symlink_to(service.home)
        Path("b").symlink_to(service.home / "secret")
        while True:
            for name, link in (
                ("keys", "a"),
                ("console.db.restoring/keys/ssh_host_ed25519_key", "b"),
                ("console.db", "b"),
            ):
                try:
                    Path(name).rename("kept")
                    Path(link).rename(name)
                    Path(name).rename(link)
                    Path("kept").rename(name)
                except OSError:
                    continue
    try:
        for _ in range(60):
            statuses = service.as_root(BACKUP, ("user", "list"), ("hostkey", "rotate"), ("init",))
            assert set(statuses) <= {0, 1}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert service.roots() == before
    assert SECRET not in service.readable()


def test_attack_a_configuration_of_the_service_runs_with_its_rights(service: Service) -> None:
    """The configuration names the target of root's files. In the service folder, the service writes it."""
    before = service.roots()
    text = f'storage: {{url: "sqlite:///{service.home}/mine.db"}}\nkeys: {{dir: {service.home}}}\n'
    service.plants(lambda: Path("config.yaml").write_text(text))
    mine = service.var / "config.yaml"
    assert service.as_root(("init",)) == [0]
    (service.etc / "config.yaml").unlink()
    (service.etc / "config.yaml").symlink_to(mine)
    assert service.as_root(("init",)) == [1]
    assert service.roots() == before


def test_attack_a_database_link_in_the_service_folder_is_not_followed(service: Service) -> None:
    before = service.roots()

    def plant() -> None:
        Path("console.db").unlink()
        Path("console.db").symlink_to(service.home / "x.db")

    service.plants(plant)
    for words in (("user", "list"), BACKUP, ("init",)):
        assert service.program(*words).returncode == 1
    assert service.roots() == before


def test_attack_root_refuses_a_folder_that_others_may_write_to(service: Service) -> None:
    """A root folder with write access for the service's group is as dangerous as a service folder."""
    os.chown(service.var, 0, UID)
    service.var.chmod(0o770)
    ran = service.program("user", "list")
    assert ran.returncode == 1
    assert "others than root may write" in ran.stderr


def test_attack_the_audits_log_is_not_written_through_a_link(stopped_console: ConsoleServer, service: Service) -> None:
    """A server of root writes its audit log into a folder of another user."""
    service.plants(lambda: Path("audit.log").symlink_to(service.home / "made"))
    stopped_console.start(ECSS_CONSOLE_AUDIT__LOG=str(service.var / "audit.log"))
    stopped_console.run("domain/declare biysk.local")
    assert stopped_console.logs("the audit's log cannot be written", "folder of somebody else")
    assert "made" not in service.roots()
    stopped_console.stop()


@pytest.mark.slow
def test_documented_root_recipes_work(service: Service) -> None:
    """The recipes of docs/operations.md and docs/backup.md, as root, with a storage key only root can read."""
    scratch = service.folder / "scratch"
    scratch.mkdir(mode=0o700)
    scratch.chmod(0o711)
    restore = ("restore", "b.age")
    for words in (
        *(("user", "list"), ("hostkey", "rotate"), ("hostkey", "rotate", "--finish"), ("hostkey", "list")),
        *(BACKUP, (*BACKUP, "--scratch", str(scratch)), (*restore, "--verify-only"), (*restore, "--force")),
        *(("audit", "verify"), ("user", "list")),
    ):
        ran = service.program(*words)
        assert ran.returncode == 0, ran.stderr
    assert {path.lstat().st_uid for path in service.var.rglob("*")} == {UID}
    assert not list(scratch.iterdir())
    backup = service.etc / "b.age"
    assert (backup.stat().st_uid, stat.S_IMODE(backup.stat().st_mode)) == (0, 0o600)
    shutil.rmtree(service.var / "keys")
    (service.var / "console.db").unlink()
    ran = service.program(*restore)
    assert ran.returncode == 0, ran.stderr
    assert {path.lstat().st_uid for path in service.var.rglob("*")} == {UID}
    assert not (service.var / "keys" / "storage.key").exists()


@pytest.mark.slow
def test_attack_a_backup_in_a_foreign_folder_replaces_no_root_file(service: Service) -> None:
    """The service owns the backup folder. It links it to a root folder, or plants links at the file name."""
    before = service.roots()

    def plant() -> None:
        Path("backups").mkdir()
        Path("backups/b.age").symlink_to(service.home / "made")

    def swap() -> None:
        Path("backups").rename("x")
        Path("backups").symlink_to(service.home)

    service.plants(plant)
    words = BACKUP[2:]
    ran = service.program("backup", str(service.var / "backups" / "b.age"), *words)
    assert (ran.returncode, service.roots()) == (1, before)
    assert "it is no plain file" in ran.stderr
    ran = service.program("backup", str(service.var / "backups" / "c.age"), *words)
    assert ran.returncode == 0, ran.stderr
    service.plants(swap)
    ran = service.program("backup", str(service.var / "backups" / "secret"), *words)
    assert (ran.returncode, service.roots()) == (1, before)
    assert "a link that root does not follow" in ran.stderr
