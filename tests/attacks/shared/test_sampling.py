"""What is drawn of many things."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.attacks.shared.sampling import evenly, in_turns, one_of_each, subset, watched


@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 99))
def test_a_subset_is_drawn_once_each_in_order(size: int, count: int, seed: int) -> None:
    drawn = subset(range(size), count, np.random.default_rng(seed))
    assert drawn == sorted(set(drawn)) and len(drawn) == min(size, count) and set(drawn) <= set(range(size))
    assert count < size or drawn == list(range(size))


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 8), st.integers(0, 99))
def test_one_of_each_group_and_every_member_may_be_it(groups: list[int], count: int, seed: int) -> None:
    drawn = one_of_each(range(len(groups)), groups, count, np.random.default_rng(seed))
    assert drawn == sorted(drawn) and len(drawn) == min(count, len(set(groups)))
    assert len({groups[i] for i in drawn}) == len(drawn)
    twins = {one_of_each("ab", [0, 0], 1, np.random.default_rng(seed))[0] for seed in range(20)}
    assert twins == {"a", "b"}


@given(st.lists(st.integers(0, 5), max_size=30))
def test_no_group_has_a_second_turn_before_all_had_their_first(groups: list[int]) -> None:
    drawn = in_turns(range(len(groups)), groups)
    assert sorted(drawn) == list(range(len(groups)))
    assert len({groups[i] for i in drawn[: len(set(groups))]}) == len(set(groups))
    assert in_turns("abcde", [0, 0, 1, 0, 1]) == ["a", "c", "b", "e", "d"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=60), st.integers(1, 70), st.integers(0, 99))
def test_of_each_group_there_are_as_many_as_the_count_allows(groups: list[tuple[int, int]], count: int, seed: int) -> None:
    drawn = evenly(range(len(groups)), groups, count, np.random.default_rng(seed))
    assert drawn == sorted(set(drawn)) and len(drawn) == min(count, len(groups))
    there, of = Counter(first for first, _ in groups), Counter(groups[i][0] for i in drawn)
    for group, size in there.items():
        assert of[group] >= min(size, count // len(there))
        parts, chosen = Counter(g for g in groups if g[0] == group), Counter(groups[i] for i in drawn if groups[i][0] == group)
        assert all(chosen[part] >= min(n, of[group] // len(parts)) for part, n in parts.items())
    assert {evenly("ab", [(0,), (0,)], 1, np.random.default_rng(seed))[0] for seed in range(20)} == {"a", "b"}


def test_watched_cases_are_evenly_spread() -> None:
    assert watched(6, 3) == [True, False] * 3
    assert watched(2, 8) == [True, True] and watched(0, 8) == []
    assert sum(watched(128, 16)) == 16
