"""What a probe's passes are estimated at is what its trials spend, within a factor of two, on the least design of each."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from vlaudit.attacks.shared import scorer_readings
from vlaudit.audit.executor import LocalExecutor
from vlaudit.audit.plan import Plan, make_plan
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.families.base import Speed
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.registry import ProbeRegistry

LEAST = 1 / 512
SEARCHES = ("prompt-trigger-inversion", "encoder-trigger-inversion", "output-collapse-inversion", "cross-family-transfer",
            "cross-family-words", "cross-family-stereotypes", "cross-family-triggers")  # which have tests of their own
FREE = ("unsafe-file", "chat-template", "prompt-only-leak")  # which take no pass
SPEED = Speed(1.0, 3.0, text=0.2, token=0.1, decoded=0.3, length=3.0)
TARGETS = {
    "poisoned-prompt": ("clip-autoattack", "prompt-text-perturb", "typographic", "rank-skew", "association", "group-performance", "prompt-mia",
                        "cross-prompt-transfer", "contrastive-prompt-detect", "poison-in-fewshot", "text-token-scan"),
    "gen-clean": ("cropa", "prompt-invariance", "context-poison", "visual-instruction", "text-insensitivity", "counterfactual-gap",
                  "demo-skew-amplification", "control-tokens"),
    "pool-clean": ("demo-trojan",), "prefix-clean": ("vlm-mia", "context-leak"), "prompt-canaries": ("canary-exposure",),
    "t2i-clean": ("query-free-suffix", "probabilistic-prompt-robustness", "homoglyph-sweep", "encoder-trigger-scan",
                  "generation-diversity", "representation", "prompt-intervention", "memorization-norm", "extraction", "t2i-mia"),
    "token-clean": ("personal-token-audit",),
}  # fmt: skip


@cache
def planned(target: str) -> Plan:
    subjects, references = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model=f"zoo:{target}")])
    request = Request(targets=[subjects[0].spec], probes=list(TARGETS[target]))
    shares = dict.fromkeys(TARGETS[target], LEAST)
    return make_plan(request, ProbeRegistry.load(), subjects, references, speeds={f"zoo:{target}": SPEED}, shares=shares)


def test_no_probe_is_forgotten() -> None:
    known = {name for names in TARGETS.values() for name in names} | {*SEARCHES, *FREE}
    assert known == set(ProbeRegistry.load().classes)


@pytest.mark.parametrize(("target", "probe"), [(target, probe) for target, names in TARGETS.items() for probe in names])
def test_the_estimate_is_what_is_spent(target: str, probe: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plan = planned(target)
    (found,) = (one for one in plan.planned if one.probe == probe)
    if not found.units:
        pytest.skip(f"{found.reason}")
    executor = LocalExecutor(plan, ArtifactStore(tmp_path), 128)
    for arm in dict.fromkeys(unit.arm for unit in found.units):
        units = sorted((unit for unit in found.units if unit.arm == arm and unit.weight > 0), key=lambda unit: unit.weight)
        if not units:
            continue
        unit = units[len(units) // 2]
        scorer_readings._drawn.clear()  # what another probe has drawn is not drawn again
        vars(plan.subject(unit).target.model).pop("remembered", None)
        result = executor.close(unit)
        assert result.error is None, result.error
        assert result.passed is not None
        estimate, took = SPEED.seconds(plan.costs[unit.id]), SPEED.seconds(result.passed)
        assert took / 2 <= estimate <= 2 * took, (plan.costs[unit.id], result.passed)
