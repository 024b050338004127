"""Groups of pictures: what can be compared, and how groups trade places."""

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


def test_no_more_of_a_group_counts_than_others_are_in_its_stratum() -> None:
    columns = {"side": ["left"] * 6 + ["right"] * 4 + [""] * 2}
    roles = ["cook"] * 4 + ["nun"] * 2 + ["cook"] * 2 + ["judge"] * 2 + ["cook"] * 2
    people = [str(i) for i in range(12)]
    anybody = Grouping.of(columns, roles, people, 2)
    assert anybody.sizes == {("side", "left"): (6, 4), ("side", "right"): (4, 2)}  # the unnamed count as others
    assert anybody.membership.sum(axis=1).tolist() == [4, 2]
    among = Grouping.of(columns, roles, people, 2, among_groups=True)
    assert among.sizes["side", "left"] == (6, 2)
    alone = Grouping.of(columns, roles, people, 3, among_groups=True)
    assert alone.groups == [] and alone.apart(5) == ["side 'left'"]
    assert alone.left_out() == "side=left (2 of 6 pictures can be compared), side=right (2 of 4 pictures can be compared)"


def test_only_the_first_of_many_are_named() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(9)]) == "0, 1, 2, 3, 4, 5, 6, 7 …"
