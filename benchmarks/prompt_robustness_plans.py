"""How many pictures does it take to tell that a perturbed prompt spoils the pictures? Four plans at equal power.

    python benchmarks/prompt_robustness_plans.py [--prompts 4000] [--drop 1.0] [--pairing 0.5] [--target zoo:t2i-clean]

A prompt's score is normal with standard deviation 1 over seeds; the perturbed prompt scores lower by ``--drop`` (or by
nothing), and scores of the same seed correlate by ``--pairing``. With ``--target`` the spread over seeds and the
correlation are measured on a text-to-image target and its scorer instead, for captions with one letter in ten changed.

The plans, all one-sided at 5 %:

    sequential paired   ours: same seeds, five looks, Pocock's spending; given up where the mean drop is shown, by O'Brien and
                        Fleming's spending, to be smaller than ``--drop``
    fixed unpaired      other seeds for the perturbed prompt, one Welch test
    fixed paired        same seeds, one paired t-test
    ProTIP              arXiv:2402.15429: other seeds, five looks of 12 pictures each; Pocock's spending, and the published
                        futility bounds; t-test, or Mann-Whitney where Shapiro-Wilk rejects normality

ProTIP's size is published; the others get the smallest size that reaches the power ProTIP reaches at this drop. Counted
are the pictures of both prompts, as if each perturbed prompt had a clean one of its own; "shared" counts the clean
pictures once for 20 perturbed prompts of a caption, as all four plans may. "Given up" is the share of spoilt prompts that a plan
stops looking at, or calls harmless at its end: only ours leaves prompts open.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vlaudit.statistics.sequential import GroupSequentialPlan, look

ALPHA, SHARED = 0.05, 20
PROTIP = GroupSequentialPlan((12, 24, 36, 48, 60), ALPHA, "pocock")
PROTIP_FUTILE = (-0.145, 0.511, 1.027, 1.497)  # z of the first four looks, as published
Rng = np.random.Generator
Verdict = tuple[bool, bool, int]  # adversarial, given up, and how many seeds of each prompt were drawn
Plan = Callable[[NDArray, NDArray], Verdict]


def sequential_paired(size: int, bar: float) -> Plan:
    """Five looks at equal steps up to ``size`` pairs, the first at no less than 2. ``bar``: the drop that is given up below."""
    sizes = tuple(dict.fromkeys(max(2, round(size * k / 5)) for k in range(1, 6)))
    plan = GroupSequentialPlan(sizes, ALPHA)

    def run(clean: NDArray, perturbed: NDArray) -> Verdict:
        drops = clean - perturbed
        done = next(done for n in sizes if (done := look(drops[:n].tolist(), plan, bar=bar)).stops)
        return done.rejects, done.futile, done.n

    return run


def fixed_paired(size: int) -> Plan:
    def run(clean: NDArray, perturbed: NDArray) -> Verdict:
        drops = clean[:size] - perturbed[:size]
        hit = bool(stats.ttest_1samp(drops, 0, alternative="greater").pvalue <= ALPHA)
        return hit, not hit, size

    return run


def fixed_unpaired(size: int) -> Plan:
    def run(clean: NDArray, perturbed: NDArray) -> Verdict:
        test = stats.ttest_ind(clean[:size], perturbed[:size], equal_var=False, alternative="greater")
        return bool(test.pvalue <= ALPHA), bool(test.pvalue > ALPHA), size

    return run


def protip(clean: NDArray, perturbed: NDArray) -> Verdict:
    """The published plan: efficacy by the bounds of ``PROTIP``, futility below the published z."""
    for number, size in enumerate(PROTIP.sizes):
        a, b = clean[:size], perturbed[:size]
        if min(stats.shapiro(a).pvalue, stats.shapiro(b).pvalue) > 0.05:
            z = float((a.mean() - b.mean()) / np.sqrt(a.var(ddof=1) / size + b.var(ddof=1) / size))
        else:
            u = stats.mannwhitneyu(a, b).statistic
            z = float((u - size * size / 2) / np.sqrt(size * size * (2 * size + 1) / 12))
        if z >= PROTIP.bounds[number]:
            return True, False, size
        if number < len(PROTIP_FUTILE) and z <= PROTIP_FUTILE[number]:
            return False, True, size
    return False, True, PROTIP.sizes[-1]


def simulate(plan: Plan, rng: Rng, prompts: int, drop: float, pairing: float, paired: bool) -> tuple[float, float, float]:
    """Share of prompts called adversarial, share given up, and the mean number of seeds of each prompt."""
    correlation = pairing if paired else 0.0
    hits = lost = seeds = 0
    for _ in range(prompts):
        shared, own, other = rng.normal(size=(3, PROTIP.sizes[-1]))
        clean = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
        perturbed = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * other - drop
        hit, given_up, used = plan(clean, perturbed)
        hits, lost, seeds = hits + hit, lost + given_up, seeds + used
    return hits / prompts, lost / prompts, seeds / prompts


def smallest(make: Callable[[int], Plan], power: float, **facts: Any) -> int:
    """The least size whose simulated power is that of the plan to be matched, by bisection."""
    low, high = 2, PROTIP.sizes[-1]
    while low < high:
        middle = (low + high) // 2
        reached, _, _ = simulate(make(middle), np.random.default_rng(1), **facts)
        low, high = (low, middle) if reached >= power else (middle + 1, high)
    return low


def measured(target: str, seed: int = 0, captions: int = 24, seeds: int = 6) -> tuple[float, float]:
    """Of a text-to-image target: the drop by a slip in seed-to-seed standard deviations, and the correlation of the
    scores of the same seed, pooled over captions. Score: the scorer's logit of the caption less the mean of the others."""
    import tempfile
    from pathlib import Path

    import torch

    from vlaudit.attacks.shared.drawn_captions import draw, sample_captions
    from vlaudit.attacks.shared.text_perturbations import CHARACTER_KINDS, perturb_share
    from vlaudit.audit.plan import context
    from vlaudit.audit.targets import Loader
    from vlaudit.config import Request, TargetSpec
    from vlaudit.probe.artifacts import ArtifactStore
    from vlaudit.records import TARGET

    torch.set_num_threads(1)
    (subject,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model=target)])
    store = ArtifactStore(Path(tempfile.mkdtemp()))
    ctx = context(Request(targets=[], probes=[], seed=seed), subject, "prompt-robustness-plans", TARGET, store)
    chosen, rng = sample_captions(ctx, captions), np.random.default_rng(seed)
    changed = [perturb_share(c, CHARACTER_KINDS[i % 4], 0.1, rng) for i, c in enumerate(chosen)]
    wanted = [(text, own) for pair in zip(chosen, changed, strict=True) for text in pair for own in range(seeds)]
    images = draw(ctx, [text for text, _ in wanted], [own for _, own in wanted]).images
    logits = ctx.scorer.scores(images, list(ctx.captions)).double()
    at = torch.tensor([ctx.captions.index(c) for c in chosen]).repeat_interleave(2 * seeds)
    own = logits.gather(1, at[:, None])[:, 0]
    score = (own - (logits.sum(1) - own) / (logits.shape[1] - 1)).view(captions, 2, seeds).numpy()
    inner = score - score.mean(axis=2, keepdims=True)
    spread = float(np.sqrt((inner**2).sum() / (inner.size - 2 * captions)))
    correlation = float(
        (inner[:, 0] * inner[:, 1]).sum() / np.sqrt((inner[:, 0] ** 2).sum() * (inner[:, 1] ** 2).sum())
    )
    return float((score[:, 0] - score[:, 1]).mean()) / spread, correlation


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=4000)
    parser.add_argument("--drop", type=float, default=1.0)
    parser.add_argument("--pairing", type=float, default=0.5)
    parser.add_argument("--target")
    options = parser.parse_args()
    drop, pairing = options.drop, options.pairing
    if options.target:
        drop, pairing = measured(options.target)
    print(f"drop {drop:.2f} standard deviations over seeds, correlation of the same seed {pairing:.2f}")
    facts: dict[str, Any] = {"prompts": options.prompts, "drop": drop, "pairing": max(pairing, 0.0)}
    power, _, _ = simulate(protip, np.random.default_rng(0), **facts, paired=False)
    plans: dict[str, tuple[Plan, bool, int]] = {"ProTIP": (protip, False, PROTIP.sizes[-1])}
    for name, make, paired in (
        ("sequential paired", partial(sequential_paired, bar=drop), True),
        ("fixed paired", fixed_paired, True),
        ("fixed unpaired", fixed_unpaired, False),
    ):
        size = smallest(make, power, **facts, paired=paired)
        plans[name] = make(size), paired, size
    print(f"{'plan':20} {'most seeds':>10} {'power':>7} {'given up':>8} {'error':>7} {'pictures: spoilt':>17} {'harmless':>9} {'shared':>14}")
    for name, (plan, paired, size) in plans.items():
        reached, lost, spoilt = simulate(plan, np.random.default_rng(2), **facts, paired=paired)
        error, _, harmless = simulate(plan, np.random.default_rng(3), **{**facts, "drop": 0.0}, paired=paired)
        shared = [used + size / SHARED for used in (spoilt, harmless)]
        print(f"{name:20} {size:10} {reached:7.3f} {lost:8.3f} {error:7.3f} {2 * spoilt:17.1f} {2 * harmless:9.1f} "
              f"{shared[0]:6.1f} /{shared[1]:6.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
