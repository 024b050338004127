"""A probe that no outcome of its trials could decide, because of counts that are known beforehand, says so before anything is planned."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from vlaudit.audit.plan import make_plan
from vlaudit.audit.subjects import Subject
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.data.dataset import Dataset
from vlaudit.families.base import Speed
from vlaudit.registry import ProbeRegistry

MATCHER, GENERATOR, TUNED, POOL, CANARIES, PIPELINE, TOKEN = (
    f"zoo:{name}"
    for name in ("poisoned-prompt", "gen-clean", "prefix-clean", "pool-clean", "prompt-canaries", "t2i-clean", "token-mislabelled")
)


@cache
def loaded(target: str) -> tuple[list[Subject], dict[str, Subject]]:
    return Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model=target)])


def few(data: Dataset, count: int = 8) -> Dataset:
    """So many of the audited pictures, spread over the data, and as many members."""
    own, members = data.audit, [example for example in data.examples if example.member]
    kept = {example.id for part in (own, members) for example in part[:: max(1, len(part) // count)][:count]}
    captions = None if data.own_captions is None else data.own_captions[:count]
    pairs = {pair for example in data.examples if example.id in kept and (pair := example.texts.get("pair"))}
    examples = [example for example in data.examples if example.id in kept or example.texts.get("pair") in pairs]
    return replace(data, examples=examples, own_captions=captions)


CASES = [
    (MATCHER, "clip-autoattack", 3), (MATCHER, "prompt-text-perturb", 8), (MATCHER, "typographic", 8),
    (MATCHER, "prompt-trigger-inversion", 8), (MATCHER, "encoder-trigger-inversion", 8), (MATCHER, "rank-skew", 8), (MATCHER, "association", 8),
    (MATCHER, "group-performance", 8), (MATCHER, "prompt-mia", 8), (MATCHER, "contrastive-prompt-detect", 8), (MATCHER, "poison-in-fewshot", 8),
    (GENERATOR, "cropa", 8), (GENERATOR, "prompt-invariance", 8), (GENERATOR, "context-poison", 8), (GENERATOR, "visual-instruction", 8), (GENERATOR, "control-tokens", 8),
    (GENERATOR, "output-collapse-inversion", 8), (GENERATOR, "text-insensitivity", 8), (GENERATOR, "counterfactual-gap", 8),
    (GENERATOR, "demo-skew-amplification", 2), (POOL, "demo-trojan", 8), (TUNED, "vlm-mia", 8), (CANARIES, "canary-exposure", 8),
    (PIPELINE, "query-free-suffix", 8), (PIPELINE, "probabilistic-prompt-robustness", 8), (PIPELINE, "homoglyph-sweep", 8),
    (PIPELINE, "memorization-norm", 1), (PIPELINE, "representation", 8), (PIPELINE, "prompt-intervention", 8), (PIPELINE, "t2i-mia", 8),
]  # fmt: skip


@pytest.mark.parametrize(("target", "probe", "count"), CASES)
def test_too_little_data_plan_no_unit_and_say_what_is_needed(target: str, probe: str, count: int) -> None:
    subjects, references = loaded(target)
    subject = replace(subjects[0], data=few(subjects[0].data, count))
    plan = make_plan(
        Request(targets=[subject.spec], probes=[probe]), ProbeRegistry.load(), [subject], references,
        speeds={target: Speed(1e-3, 3e-3)},
    )  # fmt: skip
    (planned,) = plan.planned
    assert not planned.units and not planned.failed, planned.reason
    assert planned.reason and re.search(r"\d", planned.reason), planned.reason


@pytest.mark.parametrize(("probe", "values", "cure"), [
    ("prompt-text-perturb", {"rewritings": 5}, "rewritings"), ("demo-skew-amplification", {"draws": 20}, ""),
])  # fmt: skip
def test_parameters_that_can_decide_nothing_are_named(probe: str, values: dict[str, int], cure: str) -> None:
    target = MATCHER if cure else GENERATOR
    subjects, references = loaded(target)
    request = Request(targets=[subjects[0].spec], probes=[probe], params={probe: values})
    (planned,) = make_plan(request, ProbeRegistry.load(), subjects, references, speeds={target: Speed(1e-3, 3e-3)}).planned
    assert bool(planned.units) is not bool(cure)
    assert not cure or f"--set {probe}.{cure}=" in str(planned.reason)


@pytest.mark.parametrize("target", [MATCHER, GENERATOR, PIPELINE])
def test_every_probe_that_runs_has_smaller_designs_that_take_less_and_name_what_they_leave_out(target: str) -> None:
    subjects, references = loaded(target)
    registry, speeds = ProbeRegistry.load(), {target: Speed(1.0, 3.0, 0.1, 0.1, 0.1)}
    names = [name for name in registry.classes if subjects[0].info.family in registry.get(name).info.families]

    def planned(share: float) -> dict[str, tuple[float, int]]:
        plan = make_plan(Request(targets=[subjects[0].spec], probes=names), registry, subjects, references, speeds=speeds,
                         shares=dict.fromkeys(names, share))  # fmt: skip
        return {p.probe: (sum(u.weight for u in p.units), len(p.reduced)) for p in plan.planned if p.units}

    whole, less = planned(1.0), planned(0.7) | planned(1 / 2) | planned(1 / 4)  # of groups, a quarter may be too few to compare
    for name, (seconds, reduced) in whole.items():
        assert reduced == 0
        if name in ("unsafe-file", "chat-template", "prompt-only-leak", "query-free-suffix", "group-performance", *SEARCHES):
            continue  # no passes; no fewer captions than an interval needs, or pictures than these groups need
        assert less[name][1], f"{name} leaves nothing out"
        assert less[name][0] < 0.8 * seconds, f"{name} takes {less[name][0]:.0f} s of {seconds:.0f} s"


SEARCHES = ("prompt-trigger-inversion", "encoder-trigger-inversion", "output-collapse-inversion")
