"""The Mann-Whitney test: whether two sets of measurements can be distinguished."""

from __future__ import annotations

from itertools import groupby
from math import erfc, sqrt


def mann_whitney(first: list[float], second: list[float]) -> tuple[float, float]:
    """Return how often a value of `first` exceeds one of `second`, and the two-sided p-value.

    0.5 means no difference. Uses the normal approximation with tie correction, for twenty or more values each.
    """
    count_first, count_second = len(first), len(second)
    total = count_first + count_second
    merged = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank_sum, ties, rank = 0.0, 0.0, 1
    for _, group in groupby(merged, key=lambda pair: pair[0]):
        members = [which for _, which in group]
        rank_sum += members.count(0) * (rank + (len(members) - 1) / 2)
        ties += len(members) ** 3 - len(members)
        rank += len(members)
    above = rank_sum - count_first * (count_first + 1) / 2
    pairs = count_first * count_second
    spread = sqrt(pairs / 12 * ((total + 1) - ties / (total * (total - 1))))
    return above / pairs, erfc(abs(above - pairs / 2) / spread / sqrt(2)) if spread else 1.0
