"""The rules of the limits before login, with the clock passed in."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.audit.refusals import MOST_NAMED, Tally
from server.auth.admission import Admission
from server.auth.penalties import MOST_SECONDS, PENALTY_SECONDS, Penalties
from server.auth.sources import Sources
from server.config import Limits
from server.model.refusals import DisconnectReason, Refusal

ENDS = st.sampled_from(list(DisconnectReason))


def test_penalties_grow_are_enforced_above_fifteen_seconds_and_decay() -> None:
    penalties = Penalties()
    for _ in range(3):
        penalties.penalise("a", DisconnectReason.AUTH_FAILED, 100)
    assert penalties.refused_seconds("a", 100) == 0
    penalties.penalise("a", DisconnectReason.AUTH_FAILED, 100)
    assert penalties.refused_seconds("a", 100) == 20
    assert penalties.refused_seconds("b", 100) == 0
    assert penalties.refused_seconds("a", 119.5) == 0.5
    assert penalties.refused_seconds("a", 120) == 0
    penalties.penalise("a", DisconnectReason.AUTH_FAILED, 120)
    assert penalties.refused_seconds("a", 120) == 0


def test_penalties_below_the_threshold_decay_too() -> None:
    penalties = Penalties()
    for second in range(0, 1000, 2):
        penalties.penalise("a", DisconnectReason.NO_AUTH, second)
        assert penalties.refused_seconds("a", second) == 0
    penalties.penalise("a", DisconnectReason.GRACE_EXCEEDED, 1000)
    assert penalties.refused_seconds("a", 1000) == 20


@given(st.lists(st.tuples(st.sampled_from("abc"), ENDS, st.floats(0, 40)), max_size=200))
def test_penalties_match_a_simple_model(ends: list[tuple[str, DisconnectReason, float]]) -> None:
    penalties, now = Penalties(), 0.0
    until: dict[str, float] = {}
    enforced: set[str] = set()
    for source, parting, pause in ends:
        now += pause
        for known in [known for known, end in until.items() if end <= now]:
            del until[known]
            enforced.discard(known)
        until[source] = min(until.get(source, now) + PENALTY_SECONDS[parting], now + MOST_SECONDS)
        if until[source] - now > 15:
            enforced.add(source)
        penalties.penalise(source, parting, now)
        for each in "abc":
            expected = until[each] - now if each in enforced else 0
            assert penalties.refused_seconds(each, now) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 40), ENDS, st.floats(0, 30)), max_size=300))
def test_a_flood_from_many_sources_takes_bounded_memory(ends: list[tuple[int, DisconnectReason, float]]) -> None:
    penalties, now = Penalties(most_sources=8), 0.0
    for source, parting, pause in ends:
        now += pause
        penalties.penalise(str(source), parting, now)
        assert len(penalties) <= 8
        assert len(penalties._ends) <= 2 * 8 + 65  # noqa: SLF001  what would grow unseen


def test_a_full_table_drops_the_penalty_that_expires_first() -> None:
    penalties = Penalties(most_sources=2)
    penalties.penalise("worst", DisconnectReason.GRACE_EXCEEDED, 0)
    penalties.penalise("worst", DisconnectReason.GRACE_EXCEEDED, 0)
    penalties.penalise("bad", DisconnectReason.GRACE_EXCEEDED, 0)
    penalties.penalise("new", DisconnectReason.NO_AUTH, 0)
    assert penalties.refused_seconds("bad", 0) == 0
    assert penalties.refused_seconds("worst", 0) == 40


@pytest.mark.parametrize(
    ("lengths", "address", "source"),
    [
        ((32, 128), "192.0.2.7", "192.0.2.7"),
        ((24, 128), "192.0.2.7", "192.0.2.0/24"),
        ((0, 0), "192.0.2.7", "0.0.0.0/0"),
        ((32, 128), "2001:DB8::1", "2001:db8::1"),
        ((32, 64), "2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ((24, 64), "::ffff:192.0.2.7", "192.0.2.0/24"),
        ((32, 64), "fe80::1%lo", "fe80::/64"),
        ((32, 128), "", ""),
    ],
)
def test_addresses_of_one_network_are_one_source(lengths: tuple[int, int], address: str, source: str) -> None:
    assert Sources(lengths, ()).source(address) == source


def test_exempt_addresses_are_known_in_either_form() -> None:
    sources = Sources((32, 128), ("192.0.2.0/24", "2001:db8::/32"))
    assert all(sources.is_exempt(address) for address in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::9"))
    assert not any(sources.is_exempt(address) for address in ("192.0.3.1", "2001:db9::1", ""))


def test_an_exempt_address_is_let_in_though_its_network_is_penalised() -> None:
    admission = Admission(Limits(per_source_net_block_size="24:64", per_source_penalty_exempt_list=("192.0.2.1",)))
    for _ in range(2):
        assert admission.arrive("192.0.2.9", 0) is None
    for _ in range(2):
        admission.turn_away("192.0.2.9", DisconnectReason.GRACE_EXCEEDED, 0)
    assert admission.arrive("192.0.2.10", 0) is Refusal.PENALTY
    assert admission.arrive("192.0.2.1", 0) is None


def test_early_drop_is_by_chance_and_takes_those_with_an_even_share_or_more() -> None:
    drawn = itertools.cycle(range(100))
    limits = Limits(max_startups="10:30:20", per_source_max_startups=100)
    admission = Admission(limits, draw=lambda _below: next(drawn))
    assert [admission.arrive("attacker", 0) for _ in range(10)] == [None] * 10
    outcomes = Counter[Refusal | None]()
    for _ in range(100):
        outcome = admission.arrive("attacker", 0)
        outcomes[outcome] += 1
        if outcome is None:
            admission.turn_away("attacker", None, 0)
    assert outcomes == {Refusal.STARTUPS: 30, None: 70}
    assert [admission.arrive("elsewhere", 0) for _ in range(8)] == [None] * 8
    assert admission.startups == 18
    while admission.arrive("attacker", 0) is not None:
        pass
    while admission.arrive("attacker", 0) is not None:
        pass
    assert admission.arrive("third", 0) is Refusal.STARTUPS


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "log in", "go"]), st.sampled_from("abcd"), st.integers(0, 99)), max_size=300
    )
)
def test_connection_slots_are_neither_exceeded_nor_leaked(steps: list[tuple[str, str, int]]) -> None:
    limits = Limits(
        max_connections=12,
        per_source_max_connections=6,
        per_source_max_startups=4,
        max_startups="4:30:8",
        max_sessions_per_user=3,
        per_source_penalties=False,
    )
    chance = [0]
    admission = Admission(limits, draw=lambda _below: chance[0])
    here: list[tuple[str, str]] = []  # (source, user); no user before the login
    for step, source, chance[0] in steps:
        waiting = [(each, user) for each, user in here if not user]
        held = Counter(each for each, _ in waiting)
        if step == "come":
            refusal = admission.arrive(source, 0)
            if refusal is None:
                here.append((source, ""))
            elif refusal is Refusal.STARTUPS:
                assert len(waiting) >= 8 or held[source] * len(held) >= len(waiting) >= 4
        elif step == "log in" and (source, "") in here:
            if admission.log_in(source, "user") is None:
                here[here.index((source, ""))] = (source, "user")
        elif step == "go" and (leaving := next((each for each in here if each[0] == source), None)):
            here.remove(leaving)
            if leaving[1]:
                admission.leave(*leaving)
            else:
                admission.turn_away(source, DisconnectReason.AUTH_FAILED, 0)
        assert (admission.connections, admission.startups) == (len(here), sum(not user for _, user in here))
        assert len(here) <= 12
        assert admission.startups <= 8
        assert sum(bool(user) for _, user in here) <= 3
        assert all(count <= 6 for count in Counter(each for each, _ in here).values())
        assert all(count <= 4 for count in Counter(each for each, user in here if not user).values())


@given(st.lists(st.tuples(st.sampled_from(list(Refusal)), st.integers(0, 99), st.booleans()), max_size=500))
def test_refusals_are_logged_and_a_flood_is_summarised(
    refusals: list[tuple[Refusal, int, bool]],
) -> None:
    tally = Tally()
    told = Counter[Refusal]()
    at_once = 0
    for reason, source, pause in [*refusals, (Refusal.PENALTY, 0, True)]:
        line = tally.note(reason, f"source {source}", "")
        if line is not None:
            at_once += 1
            told[reason] += 1
        if pause:
            summary = tally.summary()
            assert at_once <= MOST_NAMED
            assert len(summary) <= MOST_NAMED + len(Refusal)
            for each in summary:
                told[each.reason] += each.count
            at_once = 0
    assert told == tally.counted
    tally.summary()
    assert tally.idle
