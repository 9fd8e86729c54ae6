"""Number ranges expand to the right numbers and never past the limit."""

from __future__ import annotations

import re
import time
import tracemalloc
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.model.numbers import MOST_DIGITS, MOST_NUMBERS, number_range, parse_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("240006", ["240006"]),
        ("24010{0-1}", ["240100", "240101"]),
        ("20{01-20}", [f"20{number:02}" for number in range(1, 21)]),
        ("{8-11}", ["8", "9", "10", "11"]),
        ("{1,3,5-6}0", ["10", "30", "50", "60"]),
        ("1{0-1}2{0-1}", ["1020", "1021", "1120", "1121"]),
        ("30,4,100,4", ["4", "30", "100"]),
        ("007,07,7", ["7", "07", "007"]),
        ("{000-002}", ["000", "001", "002"]),
        ("{7-7}", ["7"]),
        ("1" * 32, ["1" * 32]),
    ],
)
def test_expansion(text: str, numbers: list[str]) -> None:
    assert parse_numbers(text) == tuple(numbers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("1,,2", "has an empty item"),
        ("1,", "has an empty item"),
        (",1", "has an empty item"),
        ("1 2", "is no number range"),
        ("12a", "is no number range"),
        ("{1-2", "is no number range"),
        ("1}", "is no number range"),
        ("{{1}}", "is no number range"),
        ("{}", "is no group"),
        ("{1,}", "is no group"),
        ("{1--2}", "is no group"),
        ("{-1}", "is no group"),
        ("{5-1}", "runs backwards: write {1-5}"),
        ("{01-1}", "both ends have the same width"),
        ("{0-10}", "both ends have the same width"),
        ("1" * 33, "at most 32 are allowed"),
        ("1{1}" * 17, "more than 32 digits"),
        ("{1-" + "9" * 40 + "}", "more than 32 digits"),
        ("{1-10001}", "makes 10,001 numbers, at most 10,000 are allowed"),
        ("1," * 10_000 + "1", "makes 10,001 numbers"),
        ("{1-9}" * 20, "more than 1,000,000,000,000 numbers"),
        ("١٢", "is no number range"),
    ],
)
def test_refusal(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refused:
        parse_numbers(text)
    assert len(str(refused.value)) < 300


def test_the_limit_itself_is_allowed() -> None:
    assert len(parse_numbers("{0000-9999}")) == MOST_NUMBERS
    assert len(parse_numbers("1," * 9_999 + "1")) == 1


digits = st.text("0123456789", min_size=1, max_size=3)
spans = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted).map(lambda ends: tuple(map(str, ends)))
choices = digits.map(lambda text: (text, [text])) | spans.filter(
    lambda ends: ends[0][0] != "0" or len(ends[1]) == 1
).map(lambda ends: (f"{ends[0]}-{ends[1]}", [str(number) for number in range(int(ends[0]), int(ends[1]) + 1)]))
groups = st.lists(choices, min_size=1, max_size=3).map(
    lambda parts: ("{" + ",".join(text for text, _ in parts) + "}", [each for _, numbers in parts for each in numbers])
)
parts = digits.map(lambda text: (text, [text])) | groups
items = st.lists(parts, min_size=1, max_size=3)


@given(st.lists(items, min_size=1, max_size=3))
def test_a_range_expands_to_the_product_of_its_parts(ranges: list[list[tuple[str, list[str]]]]) -> None:
    text = ",".join("".join(part for part, _ in item) for item in ranges)
    total = sum(len(numbers) for item in ranges for numbers in [_expanded(item)])
    if total > MOST_NUMBERS:
        with pytest.raises(ValueError, match="at most 10,000 are allowed"):
            parse_numbers(text)
        return
    expected = {number for item in ranges for number in _expanded(item)}
    assert parse_numbers(text) == tuple(sorted(expected, key=lambda number: (len(number), number)))


def _expanded(item: list[tuple[str, list[str]]]) -> list[str]:
    lengths = 1
    for _, numbers in item:
        lengths *= len(numbers)
    if lengths > MOST_NUMBERS:
        return [""] * lengths if lengths < 10**6 else [""] * 10**6
    return ["".join(combination) for combination in product(*(numbers for _, numbers in item))]


@given(
    st.text("0123456789{},-", max_size=200)
    | st.lists(st.sampled_from(["{0-9}", "{1-99}", "{", "}", ",", "7"])).map("".join)
)
def test_no_number_range_takes_much_time_or_memory(text: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        numbers = parse_numbers(text)
    except ValueError:
        numbers = ()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(numbers) <= MOST_NUMBERS
    assert all(1 <= len(number) <= MOST_DIGITS and number.isdigit() for number in numbers)
    assert numbers == tuple(sorted(set(numbers), key=lambda number: (len(number), number)))
    assert peak < 8_000_000
    assert time.process_time() - began < 5


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.from_regex(r"[0-9]{1,32}", fullmatch=True)) | st.lists(st.integers(0, 99_999).map(str), max_size=500)
)
def test_a_summarised_range_expands_to_its_numbers(numbers: list[str]) -> None:
    kept = parse_numbers(",".join(numbers)) if numbers else ()
    text = number_range(kept)
    assert (parse_numbers(text) if text else ()) == kept


def test_consecutive_numbers_are_summarised() -> None:
    assert number_range(parse_numbers("240{000-999}")) == "240{000-999}"
    assert number_range(parse_numbers("{00-99},{100-999}")) == "{00-99},{100-999}"
    assert number_range(("7", "0100", "0101", "0199")) == "7,01{00-01,99}"
