"""Groups of pictures: who counts, how groups trade places, and how much two of them have in common."""

from __future__ import annotations

import numpy as np

from vlaudit.attacks.shared.groups import Grouping, listed


def test_permutations_trade_whole_identities_within_roles() -> None:
    identities = [f"i{i // 2}" for i in range(24)]
    roles = ["cook" if i < 12 else "judge" for i in range(24)]
    gender = ["man" if i // 2 % 3 else "woman" for i in range(24)]
    groups = Grouping.of({"gender": gender}, roles, identities, 1)
    traded = groups.permuted(200, seed=0)
    man = groups.membership[[g for _, g in groups.groups].index("man")]
    assert (man[traded][:, ::2] == man[traded][:, 1::2]).all()  # both pictures of an identity go together
    assert (man[traded][:, :12].sum(axis=1) == man[:12].sum()).all()
    assert len(np.unique(man[traded], axis=0)) > 100


def test_a_person_counts_once_in_a_role_and_small_groups_are_named() -> None:
    columns = {"side": ["left"] * 6 + ["right"] * 4 + [""] * 2, "hat": ["yes"] * 12}
    roles = ["cook"] * 4 + ["nun"] * 2 + ["cook"] * 2 + ["judge"] * 2 + ["cook"] * 2
    people = ["a", "a", "b", "c", "d", "e", "f", "g", "h", "h", "i", "j"]
    groups = Grouping.of(columns, roles, people, 4)
    assert groups.groups == [("side", "left"), ("hat", "yes")]
    assert groups.left_out() == ["side 'right' (3 pictures)"]
    assert groups.names == ["cook", "judge", "nun"]
    assert groups.crossed()[0].tolist() == [3, 0, 2]
    assert groups.sums(groups.weight * np.arange(12.0))[0].tolist() == [0.5 + 2 + 3, 0, 4 + 5]


def test_people_in_many_roles_trade_places_with_all_their_pictures() -> None:
    people, roles = np.repeat(np.arange(24), 3), np.tile(["cook", "judge", "nun"], 24)
    sides = np.where(people % 2, "l", "r").tolist()
    groups = Grouping.of({"side": sides}, roles.tolist(), [f"i{i}" for i in people], 1)
    traded = groups.membership[0][groups.permuted(50, seed=0)].reshape(50, 24, 3)
    assert (traded == traded[:, :, :1]).all() and (traded.sum(axis=1) == 12).all() and len(np.unique(traded, axis=0)) > 40
    assert groups.scatter(np.repeat(np.tile([1.0, -1.0], 12), 3)) == 3 and groups.scatter(np.tile([1.0, -1.0, 0], 24)) == 1
    rare = Grouping.of({"side": sides[:24]}, roles[:24].tolist(), [f"i{i // 2}" for i in range(24)], 1)  # of three kinds, four people each
    assert len(np.unique(rare.permuted(50, seed=0), axis=0)) > 40


def test_only_groups_of_one_column_make_a_pair() -> None:
    groups = Grouping.of({"side": list("lrlr"), "hat": list("yyny")}, ["r"] * 4, list("abcd"), 1)
    assert [groups.pair(*pair) for pair in groups.pairs().T] == ["side 'l' and 'r'", "hat 'n' and 'y'"]
    assert Grouping.of({"side": list("llll")}, ["r"] * 4, list("abcd"), 1).pairs().shape == (2, 0)


def test_only_the_first_of_many_are_named() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(9)]) == "0, 1, 2, 3, 4, 5, 6, 7 …"
