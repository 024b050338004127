"""What noise on pictures does to answers, prompt by prompt: shares, the transfer table, controls. Torch-free.

A trial's ``heard`` holds, for each prompt and each version of the picture, what the answer is (see ``held_out_prompts.kind``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from vlaudit.answers import carry_difference, reader_error
from vlaudit.attacks.robustness.cropa.held_out_prompts import WORDINGS
from vlaudit.probe import Claim, figure
from vlaudit.records import Trial
from vlaudit.statistics import Interval, TooFewClustersError, mcnemar_p, mean_interval, rate_interval

EPSILON, LARGER = 8, 16  # in 1/255
CLEAN, NOISE, ATTACKED, UNSTEPPED, UNIT_TEST, GREY = "clean", "noise", "attacked", "no prompt step", "unit test", "grey"
ATTACKED_MORE = f"{ATTACKED}, {LARGER}/255"
TRAINED_ON = "trained on"
NAMED = ("aim", "decoy", "other")
CHANGED = (*NAMED, "unreadable", "empty")


def share(trial: Trial, version: str, kinds: Sequence[str] = NAMED) -> float | None:
    """Of the held-out wordings under which the clean picture is answered rightly, the share under which the version's answer
    is of these kinds; None where there is none, or the version was not tried."""
    heard = [trial["heard"].get(prompt, {}) for prompt in WORDINGS]
    known = [each[version] for each in heard if each.get(CLEAN) == "right" and version in each]
    return sum(kind in kinds for kind in known) / len(known) if known else None


def shares(trials: Sequence[Trial], version: str, kinds: Sequence[str] = NAMED) -> list[float]:
    """The share of each picture that has one."""
    return [value for trial in trials if (value := share(trial, version, kinds)) is not None]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def gain(trial: Trial, kinds: Sequence[str] = NAMED) -> float | None:
    """How much larger the share of changed answers is under attack than under noise."""
    attacked, noise = share(trial, ATTACKED, kinds), share(trial, NOISE)
    return None if attacked is None or noise is None else attacked - noise


def widened(interval: Interval) -> Interval:
    """The interval of a gain with what the reader of answers may have got wrong."""
    return carry_difference(interval, reader_error("choice"))


def interval(gains: Sequence[float], level: float) -> Interval:
    return widened(mean_interval(gains, level=level, bounds=(-1, 1)))


def by_part(trials: Sequence[Trial], harmed: float) -> Iterator[tuple[str, bool]]:
    """Of each prompt and of each right answer, whether the attack changes an answer that is right when clean and under noise;
    of a right answer's pictures, whether a larger share than ``harmed`` is changed."""
    for trial in trials:
        for prompt, each in trial["heard"].items():
            if each.get(CLEAN) == "right" and ATTACKED in each:
                yield (
                    f"right answers changed under the prompt '{prompt}'",
                    each[ATTACKED] in NAMED and each.get(NOISE) not in NAMED,
                )
        if (value := gain(trial)) is not None and "answer" in trial.values:
            yield f"pictures changed where '{trial['answer']}' is right", value > harmed


def unit_test(trials: Sequence[Trial]) -> list[bool]:
    """For each picture of the unit test that is answered rightly when clean: whether its answer changed."""
    heard = [trial["heard"].get(TRAINED_ON, {}) for trial in trials]
    return [each[UNIT_TEST] != "right" for each in heard if UNIT_TEST in each and each[CLEAN] == "right"]


def _right(trials: Sequence[Trial], version: str) -> list[bool]:
    return [trial["heard"]["as asked"].get(version) == "right" for trial in trials]


def nothing_to_attack(trials: Sequence[Trial], alpha: float, most_unread: float) -> str | None:
    """Why there is no answer that noise on a picture could change, or None."""
    n, unread = len(trials), sum(trial["heard"]["as asked"][CLEAN] in ("unreadable", "empty") for trial in trials)
    if unread > most_unread * n:
        return f"{unread} of {n} answers to clean pictures cannot be read: ask for one of the choices in the prompt"
    seen, grey = _right(trials, CLEAN), _right(trials, GREY)
    if mcnemar_p(seen, grey, "greater") <= alpha:
        return None
    return (
        f"{sum(seen)} of {n} answers are right, {sum(grey)} about a grey picture: the answers are not shown to depend on the "
        "picture, so there is nothing to attack"
    )


def tell(claim: Claim, trials: Sequence[Trial]) -> None:
    """Controls, the transfer table, and the curve over radii."""
    aimed = [trial for trial in trials if trial["decoy"] is not None]
    for name, known in {
        "random noise": shares(trials, NOISE),
        "without the prompt step": shares(trials, UNSTEPPED),
        "aimed-at answer given": shares(trials, ATTACKED, ("aim",)),
        "shuffled target: another one given": shares(aimed, ATTACKED, ("decoy",)),
    }.items():
        with suppress(TooFewClustersError):
            claim.control(name, figure(mean(known), mean_interval(known, level=claim.policy.level), len(known)))
    tested = unit_test(trials)
    claim.control("unit test", f"{sum(tested)} of {len(tested)} answers changed")
    for name, version in (("right answers", CLEAN), ("right about a grey picture", GREY)):
        claim.control(name, f"{sum(_right(trials, version))} of {len(trials)}")
    columns = ["prompt", "right when clean", "changed by random noise", "changed by the attack", "from", "to",
               "without the prompt step", "the aimed-at answer"]  # fmt: skip
    title = "transfer to prompts that the noise was not made for"
    claim.table(title, columns, by_prompt(trials, claim.policy.level))
    radii = {0: 0.0, EPSILON: mean(shares(trials, ATTACKED))}
    if any(ATTACKED_MORE in each for trial in trials for each in trial["heard"].values()):
        radii[LARGER] = mean(shares(trials, ATTACKED_MORE))
    claim.curve("answers changed under unseen wordings", list(radii), list(radii.values()),
                xlabel="radius in 1/255", ylabel="share of right answers")  # fmt: skip
    cut = mean(shares(trials, ATTACKED, ("unreadable", "empty")))
    claim.fact("right answers that cannot be read under attack", f"{cut:.1%}")


def by_prompt(trials: Sequence[Trial], level: float) -> list[list[Any]]:
    """A row a prompt: how many answers are right when clean, and what becomes of these."""
    rows: list[list[Any]] = []
    for prompt in dict.fromkeys(prompt for trial in trials for prompt in trial["heard"]):
        known = [each for trial in trials if (each := trial["heard"].get(prompt, {})).get(CLEAN) == "right"]
        if not known:
            rows.append([prompt, 0, *[None] * 6])
            continue
        hits, bare = sum(each[ATTACKED] in NAMED for each in known), [each for each in known if UNSTEPPED in each]
        rows.append([
            prompt, len(known), mean([each[NOISE] in NAMED for each in known]), hits / len(known),
            *rate_interval(hits, len(known), level).ci, mean([each[UNSTEPPED] in NAMED for each in bare]) if bare else None,
            mean([each[ATTACKED] == "aim" for each in known]),
        ])  # fmt: skip
    return rows
