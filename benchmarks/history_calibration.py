"""How often does noise look like a change between two audits, and how often is a real change seen?

    python -m benchmarks.history_calibration [--pairs 1000] [--only auc] [--judges]

Audits of one target are drawn again and again from a known truth and compared in pairs, by the rule of ``vlaudit diff``. *Worse* counts
what stops a pipeline with ``--fail-on new``: findings that are called worse or new. The threshold of each kind lies where half of its
audits are vulnerable, which is where verdicts flip most. All draws are independent: audits that share their cases are more alike.
``--judges`` adds findings made by the probes' own judges from simulated trials, which takes minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from vlaudit.history import Change, compare
from vlaudit.records import AuditInfo, Finding, Metric, Report, Risk, Severity, ToolInfo, Verdict
from vlaudit.statistics import Interval, auc_interval, mean_interval, paired_rate_difference, rate_interval, verdict
from vlaudit.statistics.roc import auc

Rng = np.random.Generator
Draw = Callable[[Rng], Metric]
ALARM = (Change.NEW, Change.WORSE)


def metric(value: float, interval: Interval, n: int) -> Metric:
    return Metric(name="figure", value=value, ci=interval.ci, n=n)


def rate(rng: Rng, truth: float, n: int) -> Metric:
    hits = int(rng.binomial(n, truth))
    return metric(hits / n, rate_interval(hits, n), n)


def paired(rng: Rng, first: float, second: float, n: int) -> Metric:
    """The difference of two arms on the same cases, half of which are hard for both."""
    hard = 0.4 * (rng.random(n) < 0.5)
    arms = [rng.random(n) < np.clip(share - 0.2 + hard, 0, 1) for share in (first, second)]
    found = paired_rate_difference(*arms)
    return metric(found.value, found.interval, n)


def clustered(rng: Rng, truth: float, clusters: int, spread: float) -> Metric:
    """Five trials of each picture, whose rates differ from picture to picture (beta, ``spread`` its a + b)."""
    shares = np.repeat(rng.beta(truth * spread, (1 - truth) * spread, clusters), 5)
    hits = (rng.random(len(shares)) < shares).astype(float)
    found = mean_interval(hits, np.repeat(np.arange(clusters), 5).tolist(), resamples=500)
    return metric(float(hits.mean()), found, clusters)


def continuous(rng: Rng, truth: float, n: int, spread: float) -> Metric:
    """Values in [0, 1] with a long tail where ``spread`` is small."""
    values = rng.beta(truth * spread, (1 - truth) * spread, n)
    return metric(float(values.mean()), mean_interval(values, resamples=500), n)


def shift(rng: Rng, truth: float, n: int) -> Metric:
    """Paired differences in [-1, 1], most of them small."""
    values = np.clip(truth + 0.1 * rng.standard_t(3, n), -1, 1)
    return metric(float(values.mean()), mean_interval(values, bounds=(-1.0, 1.0), resamples=500), n)


def separation(rng: Rng, truth: float, n: int, unequal: float = 1.0) -> Metric:
    """The AUC of ``n`` members against as many others."""
    from scipy.stats import norm

    scale = float(np.hypot(1, unequal))
    members, others = rng.normal(norm.ppf(truth) * scale, unequal, n), rng.normal(0, 1, n)
    return metric(auc(members, others), auc_interval(members, others), 2 * n)


KINDS: dict[str, Draw] = {
    **{
        f"rate {share:g}, n = {n}": partial(rate, truth=share, n=n)
        for n in (20, 50, 128, 400)
        for share in (0.02, 0.1, 0.3, 0.5, 0.9)
    },
    **{
        f"paired {first:g} against {second:g}, n = {n}": partial(paired, first=first, second=second, n=n)
        for n in (20, 100, 400)
        for first, second in ((0.1, 0.1), (0.4, 0.2), (0.9, 0.3))
    },
    **{
        f"auc {area:g}, n = {n} + {n}": partial(separation, truth=area, n=n)
        for n in (20, 72, 200)
        for area in (0.5, 0.7, 0.97)
    },
    "auc 0.7, spreads of 1 and 3, n = 50 + 50": partial(separation, truth=0.7, n=50, unequal=3.0),
    **{
        f"clustered rate {share:g}, {k} pictures, spread {s:g}": partial(clustered, truth=share, clusters=k, spread=s)
        for k in (20, 60)
        for share in (0.1, 0.4)
        for s in (0.5, 4)
    },
    **{
        f"continuous {mean:g}, n = {n}, spread {s:g}": partial(continuous, truth=mean, n=n, spread=s)
        for n in (24, 120)
        for mean in (0.1, 0.4)
        for s in (1, 10)
    },
    "paired shift of 0, n = 30": partial(shift, truth=0.0, n=30),
    "paired shift of 0.1, n = 120": partial(shift, truth=0.1, n=120),
}

MIXED = (
    "rate 0.02, n = 128", "rate 0.1, n = 128", "rate 0.3, n = 50", "rate 0.5, n = 400", "paired 0.4 against 0.2, n = 100",
    "auc 0.5, n = 72 + 72", "auc 0.7, n = 200 + 200", "paired 0.1 against 0.1, n = 400", "rate 0.9, n = 20", "rate 0.3, n = 400",
)  # fmt: skip
"""The findings of one realistic audit."""

RISES: dict[str, tuple[Draw, Draw]] = {
    "rate 0.1 to 0.3, n = 128": (partial(rate, truth=0.1, n=128), partial(rate, truth=0.3, n=128)),
    "rate 0.4 to 0.6, n = 128": (partial(rate, truth=0.4, n=128), partial(rate, truth=0.6, n=128)),
    "rate 0.4 to 0.7, n = 128": (partial(rate, truth=0.4, n=128), partial(rate, truth=0.7, n=128)),
    "rate 0.1 to 0.2, n = 400": (partial(rate, truth=0.1, n=400), partial(rate, truth=0.2, n=400)),
    "rate 0.02 to 0.5, n = 20": (partial(rate, truth=0.02, n=20), partial(rate, truth=0.5, n=20)),
    "auc 0.5 to 0.7, n = 200 + 200": (partial(separation, truth=0.5, n=200), partial(separation, truth=0.7, n=200)),
    "clustered rate 0.1 to 0.4, 60 pictures": (
        partial(clustered, truth=0.1, clusters=60, spread=4.0),
        partial(clustered, truth=0.4, clusters=60, spread=4.0),
    ),
}


def finding(drawn: Metric | None, said: Verdict, probe: str) -> Finding:
    return Finding(
        id=f"t/{probe}", probe=probe, code="X1", title=probe, risk=Risk.ROBUSTNESS, target="t", verdict=said, reason="",
        severity=Severity.NONE, metric=drawn,
    )  # fmt: skip


def audit(findings: list[Finding]) -> Report:
    info = AuditInfo(id="a", started="now", complete=True)
    return Report(tool=ToolInfo(version="1"), audit=info, targets=[], findings=findings)


def audits(rng: Rng, draw: Draw, count: int, probe: str = "p") -> list[Finding]:
    """Findings of ``count`` audits. The threshold lies where half of them are vulnerable."""
    drawn = [draw(rng) for _ in range(count)]
    threshold = float(np.median([m.ci[0] for m in drawn])) - 1e-9
    return [finding(m, verdict(Interval(*m.ci, m.level), threshold), probe) for m in drawn]


def alarms(pool: list[list[Finding]]) -> tuple[int, int]:
    """Of how many disjoint pairs of these audits something is new or worse in the later one, and the number of pairs."""
    pairs = list(zip(pool[::2], pool[1::2], strict=True))
    return sum(compare(audit(a), audit(b)).regressed for a, b in pairs), len(pairs)


def noise(name: str, pairs: int, seed: int = 0) -> tuple[int, int]:
    """Alarms among pairs of audits with one finding of a kind."""
    return alarms([[f] for f in audits(np.random.default_rng(seed), KINDS[name], 2 * pairs)])


def mixed_noise(pairs: int, seed: int = 0) -> tuple[int, int]:
    """Alarms among pairs of audits with the ten findings of ``MIXED``."""
    rng = np.random.default_rng(seed)
    columns = [audits(rng, KINDS[name], 2 * pairs, probe=name) for name in MIXED]
    return alarms([list(row) for row in zip(*columns, strict=True)])


def power(name: str, pairs: int, findings: int, seed: int = 0) -> tuple[int, int]:
    """How often a rise is called worse or new in audits with so many findings, of which the others stay as they were."""
    rng = np.random.default_rng(seed)
    before, after = RISES[name]
    still = [finding(rate(rng, 0.3, 128), Verdict.HELD, f"still {i}") for i in range(findings - 1)]
    seen = 0
    for _ in range(pairs):
        earlier, later = (finding(draw(rng), Verdict.INCONCLUSIVE, "p") for draw in (before, after))
        history = compare(audit([earlier, *still]), audit([later, *still]))
        seen += any(c.finding.probe == "p" for c in history.of(*ALARM))
    return seen, pairs


def judged_noise(pairs: int, only: str, seed: int = 0) -> Iterator[tuple[str, int, int]]:
    """Alarms among audits by the probes' own judges, of names that hold ``only``."""
    from benchmarks.battery import batteries
    from vlaudit.battery import judged

    for probe_id, (probe, scenarios) in batteries().items():
        for scenario in scenarios:
            name = f"{probe_id}, {scenario.name}"
            if only not in name:
                continue
            said = (judged(probe, scenario, seed + each) for each in range(2 * pairs))
            yield name, *alarms([[finding(one.metric, one.verdict, "p")] for one in said])


def row(name: str, hits: int, n: int) -> None:
    low, high = rate_interval(hits, n).ci
    print(f"{name:<55}{hits:>5} of {n:<6} {100 * hits / n:5.1f} %  [{100 * low:.1f}, {100 * high:.1f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--judges", action="store_true")
    asked = parser.parse_args()
    print("noise called worse or new")
    for name in (name for name in KINDS if asked.only in name):
        row(name, *noise(name, asked.pairs))
    if asked.only in "an audit of ten findings":
        row("an audit of ten findings", *mixed_noise(asked.pairs))
    if asked.judges:
        for name, hits, n in judged_noise(asked.pairs, asked.only):
            row(name, hits, n)
    print("a real rise called worse or new")
    for name in (name for name in RISES if asked.only in name):
        for findings in (1, 10, 30):
            row(f"{name}, {findings} compared", *power(name, asked.pairs, findings))


if __name__ == "__main__":
    main()
