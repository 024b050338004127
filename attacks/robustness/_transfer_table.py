"""What noise on pictures does to answers, prompt by prompt: shares, the transfer table, controls. Torch-free.

A trial's ``heard`` holds, for each prompt and each version of the picture, what the answer is (see ``_cross_prompt.kind``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.robustness._cross_prompt import EPSILON, HELD_OUT, LARGER
from vlaudit.attacks.robustness._pictures import rate_control
from vlaudit.records import Delta, Estimate, Evidence, Trial, Trials

if TYPE_CHECKING:
    from vlaudit.statistics import Interval

CLEAN, NOISE, ATTACKED, UNSTEPPED, UNIT_TEST, GREY = "clean", "noise", "attacked", "no prompt step", "unit test", "grey"
TRAINED_ON = "trained on"
NAMED = ("aim", "decoy", "other")
CHANGED = (*NAMED, "unreadable", "empty")
_SHOWN = 3
_UNREADABLE = 0.5  # share of answers to clean pictures that cannot be read, beyond which nothing is measured


def share(
    trial: Trial, version: str, kinds: Sequence[str] = NAMED, prompts: Sequence[str] = tuple(HELD_OUT)
) -> float | None:
    """Of these prompts under which the clean picture is answered rightly, the share under which the version's answer is of
    these kinds; None where there is none, or the version was not tried."""
    heard = [trial["heard"].get(prompt, {}) for prompt in prompts]
    known = [each[version] for each in heard if each.get(CLEAN) == "right" and version in each]
    return sum(kind in kinds for kind in known) / len(known) if known else None


def gain(trial: Trial, kinds: Sequence[str] = NAMED) -> float | None:
    """How much larger the share of changed answers is under attack than under noise."""
    attacked, noise = share(trial, ATTACKED, kinds), share(trial, NOISE)
    return None if attacked is None or noise is None else attacked - noise


def mean(trials: Sequence[Trial], version: str, kinds: Sequence[str] = NAMED) -> tuple[float, int]:
    """The mean share, and over how many pictures."""
    known = [value for trial in trials if (value := share(trial, version, kinds)) is not None]
    return (sum(known) / len(known) if known else 0.0), len(known)


def controls(trials: Sequence[Trial], level: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    aimed = [trial for trial in trials if trial["decoy"] is not None]
    for name, rows, version, kinds in (
        ("random noise", trials, NOISE, NAMED),
        ("without the prompt step", trials, UNSTEPPED, NAMED),
        ("aimed-at answer given", trials, ATTACKED, ("aim",)),
        ("shuffled target: another one given", aimed, ATTACKED, ("decoy",)),
    ):
        if estimate := _estimate(rows, version, kinds, level):
            found[name] = estimate
    tested = unit_test(trials)
    found["unit test"] = f"{sum(tested)} of {len(tested)} answers changed"
    seen, grey = ([trial["heard"]["as asked"].get(version) == "right" for trial in trials] for version in (CLEAN, GREY))
    found["right answers"], found["right about a grey picture"] = (
        f"{sum(seen)} of {len(seen)}",
        f"{sum(grey)} of {len(grey)}",
    )
    return found


def unit_test(trials: Sequence[Trial]) -> list[bool]:
    """For each picture of the unit test that is answered rightly when clean: whether its answer changed."""
    heard = [trial["heard"].get(TRAINED_ON, {}) for trial in trials]
    return [each[UNIT_TEST] != "right" for each in heard if UNIT_TEST in each and each[CLEAN] == "right"]


def _estimate(trials: Sequence[Trial], version: str, kinds: Sequence[str], level: float) -> dict[str, Any] | None:
    """A mean share with its interval, where there are pictures enough for one."""
    from vlaudit.statistics import TooFewClustersError, mean_interval

    known = [value for trial in trials if (value := share(trial, version, kinds)) is not None]
    try:
        interval = mean_interval(known, level=level)
    except TooFewClustersError:
        return None
    return {"value": sum(known) / len(known), "ci": list(interval.ci), "n": len(known)}


def table(trials: Sequence[Trial], level: float) -> dict[str, Any]:
    """A row a prompt: how many answers are right when clean, and what becomes of these."""
    rows: list[list[Any]] = []
    for prompt in dict.fromkeys(prompt for trial in trials for prompt in trial["heard"]):
        known = [each for trial in trials if (each := trial["heard"].get(prompt, {})).get(CLEAN) == "right"]
        if not known:
            rows.append([prompt, 0, *[None] * 6])
            continue
        hit = rate_control(sum(each[ATTACKED] in NAMED for each in known), len(known), level)
        bare = [each[UNSTEPPED] in NAMED for each in known if UNSTEPPED in each]
        rows.append([
            prompt, len(known), sum(each[NOISE] in NAMED for each in known) / len(known), hit["value"], *hit["ci"],
            sum(bare) / len(bare) if bare else None, sum(each[ATTACKED] == "aim" for each in known) / len(known),
        ])  # fmt: skip
    columns = ["prompt", "right when clean", "changed by random noise", "changed by the attack", "from", "to",
               "without the prompt step", "the aimed-at answer"]  # fmt: skip
    return {"title": "transfer to prompts that the noise was not made for", "columns": columns, "rows": rows}


def curve(trials: Sequence[Trial], epsilons: Sequence[int]) -> dict[str, Any]:
    """Share of changed answers by radius."""
    return {
        "title": "answers changed under unseen wordings", "x": [0, *epsilons],
        "y": [0.0, *(mean(trials, attacked(epsilon))[0] for epsilon in epsilons)],
        "xlabel": "radius in 1/255", "ylabel": "share of right answers",
    }  # fmt: skip


def attacked(epsilon: int) -> str:
    """The name of the version within a radius; the verdict's has none."""
    return ATTACKED if epsilon == EPSILON else f"{ATTACKED}, {epsilon}/255"


def evidence(trials: Sequence[Trial]) -> list[Evidence]:
    """What changed most, first."""
    shown = sorted((t for t in trials if t.artifacts), key=lambda t: (-(gain(t) or 0), t.case))[:_SHOWN]
    return [item for trial in shown for _, item in sorted(trial.artifacts.items())]


def interval(gains: Sequence[float], level: float) -> Interval:
    from vlaudit.answers import carry_difference, reader_error
    from vlaudit.statistics import mean_interval

    return carry_difference(mean_interval(gains, level=level, bounds=(-1, 1)), reader_error("choice"))


def nothing_to_attack(trials: Sequence[Trial], alpha: float) -> str | None:
    """Why there is no answer that noise on a picture could change, or None."""
    from vlaudit.statistics import mcnemar

    heard, n = [trial["heard"]["as asked"] for trial in trials], len(trials)
    unread = sum(each[CLEAN] in ("unreadable", "empty") for each in heard)
    if unread > _UNREADABLE * n:
        return f"{unread} of {n} answers to clean pictures cannot be read: ask for one of the choices in the prompt"
    seen, grey = ([each.get(version) == "right" for each in heard] for version in (CLEAN, GREY))
    p = mcnemar(sum(a and not b for a, b in zip(seen, grey, strict=True)),
                sum(b and not a for a, b in zip(seen, grey, strict=True)), "greater")  # fmt: skip
    if p <= alpha:
        return None
    return (
        f"{sum(seen)} of {n} answers are right, {sum(grey)} about a grey picture: the answers are not shown to depend on the "
        "picture, so there is nothing to attack"
    )


def against_reference(trials: Trials, level: float) -> dict[str, Any]:
    from vlaudit.statistics import TooFewClustersError, mean_interval, sign_flip_p

    pairs = [(a, b) for x, y in trials.paired() if (a := gain(x)) is not None and (b := gain(y)) is not None]
    gaps, theirs = [a - b for a, b in pairs], [b for _, b in pairs]
    try:
        gap, reference = mean_interval(gaps, level=level, bounds=(-2, 2)), interval(theirs, level)
    except TooFewClustersError:
        return {}
    return {
        "reference": Estimate(value=sum(theirs) / len(theirs), ci=reference.ci),
        "delta": Delta(value=sum(gaps) / len(gaps), ci=gap.ci, p=sign_flip_p(gaps)),
    }


def details(trials: Sequence[Trial], level: float) -> dict[str, Any]:
    larger = attacked(LARGER)
    swept = [EPSILON, *([LARGER] if any(larger in each for t in trials for each in t["heard"].values()) else [])]
    cut = mean(trials, ATTACKED, ("unreadable", "empty"))[0]
    return {
        "table": table(trials, level), "curve": curve(trials, swept),
        "right answers that cannot be read under attack": f"{cut:.1%}",
    }  # fmt: skip
