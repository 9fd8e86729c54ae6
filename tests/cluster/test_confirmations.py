"""A change acts on every live node before its reply appears, or the reply names the nodes that have not confirmed."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from nodes import Pair, add_user, change_number, node_row, stopped, until

_LISTENER = "SELECT pid FROM pg_stat_activity WHERE application_name = 'ecss-console {} control'"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("locked", "cocon/user/lock locked"),
        ("removed", "cocon/user/remove removed --force"),
        ("expired", "cocon/user/set expired --expires 2020-01-01Z"),
    ],
)
async def test_a_user_who_is_shut_out_on_one_node_is_out_on_the_other_before_the_reply(
    pair: Pair, name: str, command: str
) -> None:
    add_user(pair.one, name)
    async with await pair.two.connected(username=name) as connection:
        shell = await connection.create_process()
        shell.stdin.write("whoami\n")
        await shell.stdout.readuntil("exec time")
        reply = await asyncio.to_thread(pair.one.run, command)
        assert pair.two.name not in reply.split("nodes:")[0], reply
        with suppress(BrokenPipeError):  # the channel may be closed by now
            shell.stdin.write("node/info\n")
        left = await asyncio.wait_for(shell.stdout.read(), 10)
        assert "Host keys" not in left, left
        assert f"{name} may not work here any more" in left
        await asyncio.wait_for(connection.wait_closed(), 10)


@pytest.mark.parametrize(
    ("name", "command", "refused"),
    [
        ("demoted", "cocon/user/set demoted --role viewer", "domain/{}.local/integrations/add more"),
        ("revoked", "cocon/user/revoke revoked revoked.local", "domain/{}.local/integrations/list"),
        ("homeless", "domain/remove homeless.local --force", "domain/{}.local/integrations/list"),
    ],
)
async def test_rights_taken_on_one_node_are_gone_on_the_other(
    pair: Pair, name: str, command: str, refused: str
) -> None:
    pair.one.run(f"domain/declare {name}.local")
    add_user(pair.one, name, f"{name}.local")
    async with await pair.two.connected(username=name) as connection:
        before = await connection.run(f"domain/{name}.local/integrations/list")
        assert before.exit_status == 0, before.stdout
        await asyncio.to_thread(pair.one.run, command)
        after = await connection.run(refused.format(name))
        assert after.exit_status == 126, after.stdout


def test_the_reply_waits_for_a_node_that_is_slow(pair: Pair) -> None:
    add_user(pair.one, "slow")
    with ThreadPoolExecutor(1) as pool:
        with stopped(pair.two):
            number = change_number(pair.database)
            locking = pool.submit(pair.one.run, "cocon/user/lock slow")
            until(lambda: change_number(pair.database) > number)
            time.sleep(0.2)  # there is nothing to see of a reply that does not come
            assert not locking.done()
        reply = locking.result(20)
    assert "ds2@ecss1" not in reply, reply
    assert node_row(pair.database, pair.two.name)["applied"] == change_number(pair.database)


def test_a_node_that_does_not_confirm_is_named(pair: Pair) -> None:
    add_user(pair.one, "late")
    with stopped(pair.two):
        began = time.monotonic()
        reply = pair.one.run("cocon/user/lock late")
        assert time.monotonic() - began < 8  # its lease of ten seconds is not waited for
        assert "ds2@ecss1" in reply, reply
    until(lambda: node_row(pair.database, pair.two.name)["applied"] == change_number(pair.database))


@pytest.mark.slow
async def test_a_user_whose_rights_cannot_be_read_keeps_no_other_user_in(pair: Pair) -> None:
    for name in ("damaged", "after"):
        add_user(pair.one, name)
    async with await pair.two.connected(username="damaged") as damaged:
        async with await pair.two.connected(username="after") as after:
            pair.database.psql("UPDATE ecss_console.users SET role = 'of a newer version' WHERE name = 'damaged'")
            reply = await asyncio.to_thread(pair.one.run, "cocon/user/lock after")
            assert "Not confirmed" not in reply
            await asyncio.wait_for(after.wait_closed(), 10)
        await asyncio.wait_for(damaged.wait_closed(), 10)
    pair.database.psql("UPDATE ecss_console.users SET role = 'operator' WHERE name = 'damaged'")


def test_a_node_without_a_row_is_still_a_node(pair: Pair) -> None:
    pair.database.psql(f"DELETE FROM ecss_console.nodes WHERE name = '{pair.one.name}'")
    assert pair.one.name in pair.one.run(f"date --on {pair.one.name}").split("nodes:")[1]
    until(lambda: node_row(pair.database, pair.one.name)["live"] if node_row(pair.database, pair.one.name) else False)


def test_an_invented_notification_confirms_no_change(pair: Pair) -> None:
    """Every role that may connect to the database may send notifications on every channel."""
    pair.one.run("domain/declare invented.local")
    add_user(pair.one, "mallory", "invented.local")
    pair.database.psql("SELECT pg_notify('ecss_changes', 'stranger 999999999999999999 users')")
    pair.one.run("cocon/user/revoke mallory invented.local")
    until(lambda: node_row(pair.database, pair.two.name)["applied"] == change_number(pair.database))
    with stopped(pair.two):
        assert f"Not confirmed yet by {pair.two.name}" in pair.one.run("cocon/user/lock mallory")


async def test_a_change_is_applied_by_a_node_whose_listener_is_cut_meanwhile(pair: Pair) -> None:
    add_user(pair.one, "unheard")
    async with await pair.two.connected(username="unheard") as connection:
        pid = pair.database.psql(_LISTENER.format(pair.two.name))
        with stopped(pair.two):  # hears of neither the cut nor the change
            pair.database.psql(f"SELECT pg_terminate_backend({pid})")
            await asyncio.to_thread(pair.one.run, "cocon/user/lock unheard")
        await asyncio.wait_for(connection.wait_closed(), 10)
    until(lambda: node_row(pair.database, pair.two.name)["applied"] == change_number(pair.database))
    assert pair.database.psql(_LISTENER.format(pair.two.name)) != pid


@pytest.mark.slow
def test_a_subcommand_on_the_host_acts_on_all_nodes(pair: Pair) -> None:
    add_user(pair.one, "byhost")
    assert pair.two.told("byhost", "whoami")[0] == 0
    removed = pair.one.program("user", "remove", "byhost")
    assert removed.returncode == 0, removed.stderr
    assert removed.stdout == "User byhost removed.\n"
    assert node_row(pair.database, pair.one.name)["applied"] == change_number(pair.database)
    assert node_row(pair.database, pair.two.name)["applied"] == change_number(pair.database)
    add_user(pair.one, "byhost")
    with stopped(pair.two):
        removed = pair.one.program("user", "remove", "byhost")
        assert removed.returncode == 0, removed.stderr
        assert "ds2@ecss1" in removed.stdout + removed.stderr
