"""Every number that decides a verdict is the policy's: what a judge calls compares with no constant of its own.

Functions are followed by name from ``judge`` and ``decided``, through what a module imports from the attacks. A comparison of order with a
number other than 0 and 1, or with a constant in capital letters, is found; a few are excused, each with the reason why it decides nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.imports import modules

LIBRARY = "a size below which the library states no interval: docs/thresholds.md lists them"
TOLD = "what a reader is told, not what is decided"
ROUNDING = "the last digits of a computation"
GUESS = "a half is guessing between two"
TWO = "of one there is no comparison or share"
MAKES = "of the attempt, which makes the trials: followed for its name alone"
EXCUSED = {
    "backdoor.cross_family_triggers.verdict": {"len(self.answers) >= MIN_CLUSTERS": LIBRARY},
    "backdoor.demo_trojan.verdict": {
        "len(nulls) >= LEAST_NULL": LIBRARY, "control['rank'] >= FINALISTS": "how many words are tried further", "share > 0.2 * total": TOLD,
    },
    "backdoor.generation_diversity.verdict": {"len(null) < FEWEST": LIBRARY},
    "backdoor.text_insensitivity.verdict": {"scale > 1e-09": ROUNDING},
    "bias.association.effect": {"deviation[:, None] > 1e-09": ROUNDING},
    "bias.counterfactual_gap": {"spread <= 1.5 * abs(gap.mean)": TOLD, "spread < 0.05": TOLD},
    "bias.counterfactual_gap.gaps": {"worst.logits.size > 2": TOLD, "min(rates) > 1e-06": ROUNDING},
    "bias.demo_skew_amplification": {"len(usable) < max(least, 2)": TWO, "beyond[1] > limit ** 2": "the threshold itself, of squares"},
    "bias.demo_skew_amplification.disparity": {
        "len(excess) >= MIN_CLUSTERS": LIBRARY, "len(traded) >= MIN_CLUSTERS": LIBRARY, "len(pairs) < MIN_CLUSTERS": LIBRARY,
        "p > 0.5": GUESS, "mean_of(shares, level)[1].low > 0.5": GUESS,
    },
    "bias.prompt_intervention.concentration_change": {"k > 2": TOLD, "rng.random((FLIPS, len(own))) < 0.5": GUESS},
    "backdoor.output_collapse_inversion.search": {
        "likeness(answer, other, common) < ALIKE": MAKES, "min(map(len, self.open_to(answer))) >= LEAST // 3": MAKES,
    },
    "backdoor.output_collapse_inversion.verdict": {"_ORDER.index(suffix.verdict) < _ORDER.index(verdict)": "verdicts by gravity"},
    "bias.rank_skew": {"rates.interval.high >= WIDEST": TOLD},
    "bias.rank_skew.ranking": {"log_ratio < WIDEST": TOLD, "chance > 1e-09": ROUNDING},
    "bias.representation.concentration": {"size > 2": TOLD},
    "privacy.canary_exposure.exposure": {"len(set(exposures)) < 2": TOLD},
    "privacy.context_leak.verdict": {"len(leaking) > SAID": TOLD},
    "privacy.extraction.cliques": {"len(t['distances']) >= 3": TWO},
    "privacy.memorization_norm": {"pull.rank_p().min() > 1 / (pull.fresh + 1) + 1e-09": ROUNDING},
    "privacy.memorization_norm.noise_norm": {
        "len(fresh) < FEWEST": LIBRARY, "(lengths == n).sum() >= 20": "captions of a length that have a centre of their own, else that of all",
    },
    "robustness.homoglyph_sweep": {"len(values) >= MIN_CLUSTERS": LIBRARY, "len(room) < MIN_CLUSTERS": LIBRARY, "len(few) > 4": TOLD},
    "robustness.query_free_suffix": {"t['cosine'] > 1 - 1e-06": ROUNDING},
    "robustness.visual_instruction": {"steered > n / 2": TOLD, "broken > n / 2": TOLD, "sum(text) > n / 2": TOLD},
    "shared.contradicting_questions": {"0 < len(answer.split()) <= _WORDS": MAKES, "count > max(1, len(different) / 2)": MAKES},
    "shared.drawn_captions": {"len(others) <= FEW": MAKES},
    "shared.excess": {"p < 0.0001": TOLD},
    "shared.blind_baseline": {"scale > 1e-09": ROUNDING, "spread > 1e-09": ROUNDING},
    "shared.groups": {"len(names) > 8": TOLD, "len(columns) < 2": TWO},
    "shared.scorer_readings": {"needed > MOST_NEEDED": TOLD, "read < 2": TWO, "rank >= RECOGNISED": MAKES},
    "shared.membership": {
        "sure.low > 0.5": GUESS, "len(names) < 2": TWO, "p < 0.01": TOLD, "size > min(len(members), len(others) // 2)": TOLD,
    },
    "shared.text_triggers.verdict": {"sum(map(len, self._values.get(BEFORE, {}).values())) >= LEAST_NULL": LIBRARY},
    "shared.transfer_map": {"len(self.measured) < 2": TWO},
    "shared.trigger_inversion.verdict": {
        "len({t['label'] for t in trials.target}) <= 200": "how often is drawn again",
        "self.factor.ci[0] > CLEAR * self.limit": "how long is searched",
        "len(one.labels) > 2": TOLD, "near.advantage.wide > WIDE": TOLD,
        "near.factor.ci[0] > (self._limit() if near.advantage.wide > WIDE else near.limit)": TOLD, "len(searched) <= 20": TOLD, "len(self.skipped) > 8": TOLD,
    },
    "supply_chain.unsafe_file": {"len(unknown) > 3": TOLD},
}  # fmt: skip


def found(paths: dict[str, Path]) -> dict[str, set[str]]:
    """By module the comparisons with numbers of its own in what a judge calls."""
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in paths.items()}
    functions: dict[str, list[tuple[str, str, ast.FunctionDef]]] = {name: [] for name in trees}  # of a module: class or "", name
    beside: dict[str, set[str]] = {name: {name} for name in trees}
    for name, tree in trees.items():
        for holder in ast.walk(tree):
            if isinstance(holder, ast.ImportFrom):
                wholes = {f"{holder.module}.{alias.name}" for alias in holder.names} | {str(holder.module)}
                beside[name] |= wholes & set(trees)
            elif isinstance(holder, (ast.ClassDef, ast.Module)):
                inside = [f for f in holder.body if isinstance(f, ast.FunctionDef)]
                functions[name] += [(holder.name if isinstance(holder, ast.ClassDef) else "", f.name, f) for f in inside]
    todo = [(name, f) for name, own in functions.items() for _, start, f in own if start in ("judge", "decided")]
    seen: set[ast.FunctionDef] = set()
    hits: dict[str, set[str]] = {}
    while todo:
        name, function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        hits.setdefault(name, set()).update(_own_numbers(function))
        called = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
        for other in beside[name]:
            for holder_name, own_name, f in functions[other]:
                made = own_name in ("__init__", "__post_init__") or (own_name in called and own_name == "of")
                if (holder_name in called) if made else (own_name in called - {"cases", "attempt", "estimate"}):
                    todo.append((other, f))
    return {name.removeprefix("vlaudit.attacks."): texts for name, texts in hits.items() if texts}


def _own_numbers(function: ast.FunctionDef) -> Iterator[str]:
    orders = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and any(isinstance(op, orders) for op in node.ops):
            sides = [part for side in (node.left, *node.comparators) for part in _outside_the_policy(side)]
            numbers = (n.value for n in sides if isinstance(n, ast.Constant) and type(n.value) in (int, float))
            names = (n.id for n in sides if isinstance(n, ast.Name) and len(n.id) > 1 and n.id.strip("_").isupper())
            if any(number not in (0, 1) for number in numbers) or any(names):
                yield ast.unparse(node)


def _outside_the_policy(side: ast.expr) -> Iterator[ast.AST]:
    """What a side of a comparison is made of, without what the policy is asked and what is only indexed by."""
    if isinstance(side, ast.Call) and isinstance(side.func, ast.Attribute) and side.func.attr == "threshold":
        return
    yield side
    for child in ast.iter_child_nodes(side):
        if not (isinstance(side, ast.Subscript) and child is side.slice):
            yield from _outside_the_policy(child)  # type: ignore[arg-type]


OURS = {name: path for name, path in modules().items() if name.startswith("vlaudit.attacks.")}


def test_no_judge_decides_by_a_number_of_its_own() -> None:
    told = {name: sorted(texts - set(EXCUSED.get(name, {}))) for name, texts in found(OURS).items()}
    assert not {name: texts for name, texts in told.items() if texts}, "make it a Threshold of the probe, or excuse it with the reason"


def test_nothing_is_excused_that_is_not_there() -> None:
    here = found(OURS)
    assert not {name: gone for name, known in EXCUSED.items() if (gone := sorted(set(known) - here.get(name, set())))}


@pytest.mark.parametrize(("line", "seen"), [
    ("if share > 0.3:", True), ("if n < FEWEST:", True), ("if helper(n):", True), ("if n < policy.threshold(info, LEAST.name):", False),
    ("if share > policy.threshold(info):", False), ("if rows[3] > limit:", False), ("if n > 0:", False), ("if n < 2 * policy.threshold(info):", True),
])  # fmt: skip
def test_a_number_of_its_own_is_found(line: str, seen: bool, tmp_path: Path) -> None:
    module = tmp_path / "probe.py"
    module.write_text(f"FEWEST = 3\ndef helper(n):\n    return n >= 12\ndef judge(n, share, rows, limit, policy, info):\n    {line}\n        return 1\n")
    assert bool(found({"vlaudit.attacks.probe": module})) is seen
