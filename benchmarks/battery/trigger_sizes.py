"""Trials of trigger inversion, drawn: how large the smallest triggers of labels are, and how often they work."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlaudit.attacks.shared.trigger_inversion.sizes import CONTROL, KINDS, SPREAD
from vlaudit.records import REFERENCE, TARGET, Trial, Trials

Rng = np.random.Generator
Shape = Literal["normal", "left-skewed", "right-skewed", "heavy tails"]
STRENGTHS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
TYPICAL = {"patch": 0.09, "blend": 0.11, "smooth": 0.17}  # on the clean models of the zoo
ADDED = {"patch": 0.4, "blend": 0.35, "smooth": 0.45}  # of those that the plain prompt does not follow, under clean learned prompts
LARGEST = {"patch": 1.0, "blend": 0.6, "smooth": 0.6}
PLANTED = {"patch": 0.012, "blend": 0.024, "smooth": 0.043}  # as found in the control
OWN = 0.06  # how far a label's sizes of one kind lie from what its ease says
STEEP = 0.3  # standard deviation over pictures of the log size that each needs, as on the models of the zoo


def drawn(rng: Rng, shape: Shape, count: int, spread: float) -> NDArray[np.float64]:
    """(count,) of mean 0 and this standard deviation."""
    if shape == "normal":
        return spread * rng.normal(size=count)
    if shape == "heavy tails":
        return spread * rng.standard_t(5, count) / np.sqrt(5 / 3)
    skewed = (rng.gamma(2.0, size=count) - 2) / np.sqrt(2)
    return spread * (skewed if shape == "right-skewed" else -skewed)


def found(rng: Rng, case: str, arm: str, label: str, kind: str, of: int, at: float, pictures: int) -> Trial:
    """One search: the trigger takes four in five pictures at about the size ``at``, and each picture at one of its own."""
    size = min(at * np.exp(SPREAD[kind] * rng.normal()), LARGEST[kind])
    need = size * np.exp(STEEP * (rng.normal(size=pictures) - 0.84))
    as_found = 1.15 * size
    first = np.searchsorted(as_found * np.array(STRENGTHS), need)
    values = {
        "label": label, "kind": kind, "of": of, "share": 1 / of, "sizes": (as_found * np.array(STRENGTHS)).tolist(),
        "needed": np.bincount(first, minlength=len(STRENGTHS) + 1)[: len(STRENGTHS)].tolist(), "pictures": pictures,
        "flipped": float((0.8 * need <= as_found).mean()), "scrambled": float((rng.random(pictures) < 0.05).mean()),
    }  # fmt: skip
    return Trial(case=case, arm=arm, values=values)


def searches(
    rng: Rng, labels: int = 12, shape: Shape = "normal", spread: float = 0.2, *, planted: Mapping[int, Mapping[str, float] | float] | None = None,
    families: float = 1.0, prompt: float | None = None, moved: float = 1.0, by_prompt: Mapping[int, float] | None = None,
    prompt_shape: Shape = "normal", seldom: Mapping[int, float] | None = None,
    added: Mapping[int, float] | None = None, of: int = 0, control: bool = True, restarts: int = 5, pictures: int = 60, dominant: int = 0,
    kinds: tuple[str, ...] = KINDS, noun: str = "label", confidence: float = 3.0,
) -> Trials:  # fmt: skip
    """An audit. ``shape`` and ``spread``: of the labels' log sizes. ``planted``: by label, how many times smaller its triggers are than
    the easiest other label's, of all kinds or by kind. ``families``: how many times harder every second label is. ``prompt``: by how
    much the prompt moves each log size, against a reference arm; ``moved``: by what factor it shrinks all; ``by_prompt``: how many times
    more it shrinks a label's. ``seldom``: the same of a prompt of a pool that no picture picks, which moves sizes as the prompt does. ``added``: by label, how many
    times smaller than usual the triggers are that the plain prompt does not follow. ``of``: labels there are. ``dominant``: labels that nearly every picture gets.
    ``confidence``: the logits by which the best label typically leads on genuine pictures."""
    of, names = of or labels + dominant, [f"{noun} {i}" for i in range(labels + dominant)]
    ease = drawn(rng, shape, labels, spread) + np.log(families) * (np.arange(labels) % 2)
    planted, by_prompt = planted or {}, by_prompt or {}
    clean = [i for i in range(labels) if i not in planted]
    logs = {kind: np.log(TYPICAL[kind]) + ease + OWN * rng.normal(size=labels) for kind in kinds}
    for label, factors in planted.items():
        for kind in kinds:
            factor = factors.get(kind, 0.0) if isinstance(factors, Mapping) else factors
            if factor:
                logs[kind][label] = logs[kind][clean].min() - np.log(factor)
    arms = {TARGET: logs}
    if prompt is not None:
        shift = drawn(rng, prompt_shape, labels, prompt) - np.log(moved)
        shift[list(by_prompt)] -= np.log([by_prompt[i] for i in by_prompt])
        arms = {TARGET: {kind: logs[kind] + shift for kind in kinds}, REFERENCE: logs}
    trials: list[Trial] = []
    if seldom is not None:
        shift = drawn(rng, prompt_shape, labels, prompt or 0.0)
        shift[list(seldom)] -= np.log([seldom[i] for i in seldom])
        told = {"prompt": 1, "pool": 2, "picked": 0.0, "seldom": 1}
        for restart, kind, i in itertools.product(range(restarts), kinds, range(labels)):
            one = found(rng, f"{restart}/{kind}/{i:04d}/0", TARGET, names[i], kind, of, float(np.exp(logs[kind][i] + shift[i])), pictures)
            trials.append(one.model_copy(update={"values": one.values | told}))
    if added is not None:
        shift = drawn(rng, "normal", labels, 0.25)  # as far apart as under the clean prompt where they lie farthest apart
        shift[list(added)] = -np.log([added[i] for i in added])
        for restart, kind, i in itertools.product(range(restarts), kinds, range(labels)):
            one = found(rng, f"{restart}/{kind}/{i:04d}/against", TARGET, names[i], kind, of, float(ADDED[kind] * np.exp(shift[i])), pictures)
            trials.append(one.model_copy(update={"values": one.values | {"against": "plain"}}))
    for arm, sizes in arms.items():
        for restart in range(restarts):
            for kind in kinds:
                for i in range(labels):
                    at = float(np.exp(sizes[kind][i]))
                    trials.append(found(rng, f"{restart}/{kind}/{i:04d}", arm, names[i], kind, of, at, pictures))
                for i in range(labels, labels + dominant):
                    values: dict[str, Any] = {"label": names[i], "kind": kind, "of": of, "share": 0.9, "pictures": 0}
                    trials.append(Trial(case=f"{restart}/{kind}/{i:04d}", arm=arm, values=values))
                if control and arm == TARGET:
                    case = f"{restart}/{kind}/{labels - 1:04d}"
                    trials.append(found(rng, case, CONTROL, names[labels - 1], kind, of, PLANTED[kind], pictures))
    trials = [t.model_copy(update={"values": t.values | {"confidence": confidence}}) if t["pictures"] else t for t in trials]
    return Trials(trials, reference_note=None if prompt is not None else "the target is the reference")
