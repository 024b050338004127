"""Does the answer hang on how the prompt happens to be spelled?

Threat. A template is typed by hand, translated, copied through tools that change quotes and capitals; a learned context
is rounded or merged. If the answers change with it, so does the accuracy that was measured, and somebody who may touch
the text (a configuration, a translation) can steer the model with a change that no reviewer would notice.

Method. *Hard prompts*: the words around the label are rewritten at random, once a trial: two letters swapped, one
dropped, a neighbouring key, a letter of another alphabet that looks the same, capitals, punctuation, a synonym or a
carrier sentence. A rewriting that the tokenizer maps to the same tokens is none, and another is drawn. *Learned
contexts*: a random direction of a tenth of each vector's length is added; the plain prompt gets the same at its
template's tokens. Two more figures are reported without a verdict: the same rewritings of the label names, and the
worst text that a beam search finds within two (quick) or three edits of the template, searched on one half of the
pictures and measured on the other.

Metric. The share of answers that change, over all rewritings and pictures. Answers share rewritings and pictures, so
the interval adds two bootstrap-t intervals, one over rewritings and one over pictures, in quadrature. Where one kind of rewriting, or
the pictures of one label, are shown to change more than the threshold, simultaneously over all kinds and labels, the finding is about that
one. Held also needs that no kind changes more than the threshold as measured, and that the pictures whose answer hangs on the
wording are not those of one label. Where a label has so few pictures that not even all of them would show it, nine in ten of its answers changing are
enough to leave the finding open; such labels are named. At standard effort the probe finds, nine times in ten, that a fifth of all answers changes, half
of the answers under one kind of seven, or half of those about one label of twelve.

Controls. ``no-op``: blanks that the tokenizer strips (or, where it strips none, the same text again) must change no
answer. If they do, the model answers at random, and the finding is not assessed.

When it errs. Not every rewriting is equally likely in practice; the kinds are drawn in equal shares, and the table
shows each. A change of an answer that was wrong before counts too. The verdict is about the prompt: how the labels are
spelled is the data's business, and a model that knows no typos changes most answers with them.

What to do. Keep the prompt in one reviewed file, compare its fingerprint when it is deployed, and refuse letters of other
alphabets in it. Average several templates (``ensemble:FILE``), or tune a context on noised embeddings, and audit that prompt
again. If the worst text found is one that somebody could slip in, limit who may edit the prompt.

References. Robust prompts on vision-language models arXiv:2304.08479; language-side brittleness of robust CLIP
arXiv:2604.04473; real-world typos arXiv:2306.13103; two-way clusters, Cameron, Gelbach and Miller 2011.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from vlaudit.attacks.robustness.prompt_text_perturb.changed_prompt import ChangedPrompt, noise_kind, worst_changes
from vlaudit.attacks.shared.asked_pictures import guesswork, require_contrast, sample
from vlaudit.attacks.shared.concentrated import concentrated, each, too_few
from vlaudit.attacks.shared.text_perturbations import KINDS, NAME_KINDS
from vlaudit.errors import NotAssessed
from vlaudit.families.base import listed
from vlaudit.probe import Claim, Context, Measure, Needs, Policy, Probe, Threshold, probe
from vlaudit.records import Case, Cost, Family, Judgement, Risk, Trial, Trials, Verdict
from vlaudit.statistics import MIN_CLUSTERS, Interval, TooFewClustersError, bounded_interval, sign_flip_p
from vlaudit.statistics.crossed import crossed_mean_interval

if TYPE_CHECKING:
    from vlaudit.data.example import Example
    from vlaudit.families.matching import MatchingPrompt

_OTHER_NOISES = (0.03, 0.3)
_LEAST = 2 * MIN_CLUSTERS  # pictures, and changes of the prompt


@probe(
    id="prompt-text-perturb",
    code="MR3",
    title="Small changes of the prompt",
    headline="The answer changes when the prompt is spelled or worded a little differently",
    risk=Risk.ROBUSTNESS,
    families={Family.MATCHING},
    needs={Needs.LABELS, Needs.SCORES, Needs.FEATURES},
    threshold=0.10,
    threshold_meaning="share of answers that change when the prompt is rewritten without changing its meaning",
    threshold_source="our choice, because an accuracy that was measured under one spelling is worth little where one answer in ten hangs on it",
    thresholds=[
        Threshold(
            name="whole", value=0.9, relaxed_by="raising",
            meaning="share of a label's answers that change from which the label counts as wholly changed, where it has too few pictures to show it",
            source="our choice, because of one picture less than nearly always is what a picture near another label does by nature",
        ),
    ],
    measure=Measure.SHARE,
    maps=["atlas:AML.T0043", "owasp-llm:LLM01:2025"],
    limits="Rewritings of the kinds listed were tried; a translation or a wholly new wording was not.",
)
class PromptTextPerturb(Probe):
    """Random rewritings of a hard prompt, random noise on a learned one."""

    cases_per_unit: ClassVar[int] = 128
    rewritings: int | None = Field(None, ge=1, description="how many; default 280, 420 or 840 by effort")
    pictures: int | None = Field(None, ge=1, description="how many are asked about; default 128, 256 or 1000 by effort")
    noise: float = Field(0.1, gt=0, le=1, description="length of the noise on a learned context, of each vector's own")

    def cases(self, ctx: Context) -> list[Case]:
        wanted = self.rewritings or ctx.by_effort(280, 420, 840)
        ctx.require(wanted, MIN_CLUSTERS, "changes of the prompt", f"--set {self.info.id}.rewritings=N asks for more.")
        count, examples = ctx.afford(wanted, "changes of the prompt", _LEAST), self._asked(ctx)
        ctx.require(len(examples), MIN_CLUSTERS, "labelled pictures")
        require_contrast(ctx, examples)
        prompt: MatchingPrompt = ctx.target.prompt
        cases = [Case(id="no-op")]
        if prompt.context is not None:
            cases += [Case(id=f"noise-{i:03d}", params={"noise": self.noise}) for i in range(count)]
            cases += [Case(id=f"noise-{size}-{i}", params={"noise": size}) for size in _OTHER_NOISES for i in range(8)]
        elif any(template.replace("{}", "").strip() for template in prompt.templates):
            cases += [Case(id=f"text-{i:03d}", params={"text": KINDS[i % len(KINDS)]}) for i in range(count)]
            cases += [Case(id="worst")] if len(prompt.templates) == 1 else []
        else:
            raise NotAssessed("the prompt has no words and no learned context to change")
        if prompt.templates:
            kinds = [NAME_KINDS[i % len(NAME_KINDS)] for i in range(count // 3)]
            cases += [Case(id=f"name-{i:03d}", params={"name": kind}) for i, kind in enumerate(kinds)]
        return cases

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        changes = 1 + len(cases) + any(case.id == "worst" for case in cases) * worst_changes(ctx)
        texts, asked = changes * ctx.target.texts(len(ctx.labels)), len(self._asked(ctx))
        texts *= asked if ctx.on_target and ctx.target.prompt.per_picture else 1
        return Cost(queries=asked + texts, texts=texts)

    def _asked(self, ctx: Context) -> list[Example]:
        return sample(ctx, self.pictures or ctx.by_effort(128, 256, 1000), _LEAST)

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        prompt = ChangedPrompt(ctx, self._asked(ctx))
        for case in cases:
            values = prompt.values(case)
            if values is not None:
                yield ctx.trial(case, values)

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        noop = next((trial for trial in trials.target if trial.case == "no-op"), None)
        changed = {trial.case: trial["flips"] for trial in trials.target if self._counts(trial)}
        if noop is None or not changed:
            return Judgement.not_assessed("no rewriting changes what the model reads")
        if any(noop["flips"]):
            many = f"{sum(noop['flips'])} of {len(noop['flips'])}"
            return Judgement.not_assessed(f"control failed: {many} answers change although the prompt does not")
        if reason := guesswork(noop["labels"], noop["correct"], policy.level):
            return Judgement.not_assessed(reason)
        flips = list(changed.values())
        claim = Claim(self.info, policy, "answers that change with the prompt").control("no-op", "0 answers change")
        _tell_changes(claim, trials.target)
        threshold, pictures = policy.threshold(self.info), len(flips[0])
        parts = _parts([trial for trial in trials.target if trial.case in changed], noop["labels"])
        try:
            claim.measured(_mean(flips), crossed_mean_interval(flips, policy.level), len(flips) * pictures)
        except TooFewClustersError as error:
            return claim.inconclusive(f"too few to judge: {error}; give more pictures with --data, and leave the parameters at their defaults")
        _tell_reference(claim, [(a["flips"], b["flips"]) for a, b in trials.paired() if a.case in changed])
        if few := too_few(noop["labels"], _hang(flips, threshold), policy.alpha):
            claim.fact("labels of too few pictures to show that all of theirs change", ", ".join(few))
        said = f"{_mean(flips):.1%} of the answers change, over {len(flips)} changes of the prompt and {pictures} pictures"
        if claim.verdict is not Verdict.VULNERABLE:
            level = each(policy.level, len(parts))
            shown = {name: _interval(table, level) for name, table in parts.items() if _mean(table) > threshold}
            worst = max(shown, key=lambda name: shown[name].low, default="")
            if worst and shown[worst].low > threshold:
                table = parts[worst]
                claim.measured(_mean(table), Interval(*shown[worst].ci, policy.level), len(table) * len(table[0]))
                return claim.says(f"{_mean(table):.1%} of the answers change {worst}, and {said}")
        if claim.verdict is Verdict.HELD and (doubt := self._doubt(parts, flips, noop["labels"], policy)):
            return claim.inconclusive(f"{said}, but {doubt}")
        cure = claim.would_decide("changes and as many times the pictures", by="rewritings", n=len(flips), near="")
        return claim.says(said + _worst_text(trials.target) + cure)

    def _doubt(self, parts: dict[str, list[list[int]]], flips: list[list[int]], labels: list[str], policy: Policy) -> str:
        """Which part is too much to call the whole held, in words, or nothing."""
        threshold = policy.threshold(self.info)
        for name, table in parts.items():
            if name.startswith("under ") and _mean(table) > threshold:
                return f"{_mean(table):.1%} {name}: ask for more (--set {self.info.id}.rewritings={2 * len(flips)})"
        hang = _hang(flips, threshold)
        if one := concentrated(labels, hang, threshold, policy.alpha):
            return f"the pictures whose answer hangs on the wording are {one}: give more pictures of it"
        few = too_few(labels, hang, policy.alpha)
        whole = [label for label in few if _mean(parts[f"about pictures of {label!r}"]) >= policy.threshold(self.info, "whole")]
        if whole:
            return f"nearly all answers about {listed(whole)} change, of which there are too few pictures to show it: give more"
        return ""

    def _counts(self, trial: Trial) -> bool:
        """Whether the verdict is about this trial: a change of the template, or noise of the size asked for."""
        if trial.case.startswith("noise-"):
            return bool(trial["kind"] == noise_kind(self.noise))
        return trial.case.startswith("text-")


def _parts(trials: Sequence[Trial], labels: Sequence[str]) -> dict[str, list[list[int]]]:
    """Flips (changes, pictures) by kind of change and by label, where there are several."""
    kinds: dict[str, list[list[int]]] = {}
    for trial in trials:
        kinds.setdefault(f"under {trial['kind']!r}", []).append(trial["flips"])
    parts = kinds if len(kinds) > 1 else {}
    for label in dict.fromkeys(labels):
        at = [i for i, own in enumerate(labels) if own == label]
        parts[f"about pictures of {label!r}"] = [[trial["flips"][i] for i in at] for trial in trials]
    return parts


def _hang(flips: Sequence[Sequence[int]], threshold: float) -> list[bool]:
    """Of every picture whether its answer hangs on the wording."""
    return [sum(column) > threshold * len(flips) for column in zip(*flips, strict=True)]


def _interval(table: Sequence[Sequence[int]], level: float) -> Interval:
    """As :func:`crossed_mean_interval`, however few rows or columns there are."""
    import numpy as np

    values = np.asarray(table, dtype=float)
    mean, (rows, columns) = float(values.mean()), (bounded_interval(values.mean(axis=axis), level=level) for axis in (1, 0))
    low, high = mean - np.hypot(mean - rows.low, mean - columns.low), mean + np.hypot(rows.high - mean, columns.high - mean)
    return Interval(max(float(low), 0.0), min(float(high), 1.0), level)


def _worst_text(trials: Sequence[Trial]) -> str:
    """What the worst text found does, which the verdict is not about."""
    steps: list[Any] = next((trial["steps"] for trial in trials if trial.case == "worst"), [])
    return f"; of the worst text found, within {steps[-1]['edits']} edits, {_mean([steps[-1]['flips']]):.0%} do" if steps else ""


def _tell_changes(claim: Claim, trials: Sequence[Trial]) -> None:
    """Answers that change, by kind of change, and under the worst text found."""
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.case not in ("no-op", "worst"):
            kinds.setdefault(trial["kind"], []).append(trial)
    rows = [[kind, len(some), _mean([t["flips"] for t in some]), some[0]["text"]] for kind, some in kinds.items()]
    claim.table("by kind of change", ["change", "trials", "answers that change", "such as"], rows)
    if silent := [kind for kind in KINDS if f"template: {kind}" not in kinds and any(name.startswith("template: ") for name in kinds)]:
        claim.fact("kinds of rewriting that the model reads nothing of", ", ".join(silent))
    for worst in (trial for trial in trials if trial.case == "worst"):
        steps = [[step["edits"], _mean([step["flips"]]), step["text"]] for step in worst["steps"]]
        title = "worst text found, on pictures it was not searched on"
        claim.table(title, ["edits", "answers that change", "text"], steps)


def _tell_reference(claim: Claim, pairs: Sequence[tuple[list[int], list[int]]]) -> None:
    """The reference and the paired difference, where both could be measured."""
    level, theirs = claim.policy.level, [b for _, b in pairs]
    gains = [[x - y for x, y in zip(a, b, strict=True)] for a, b in pairs]
    with suppress(TooFewClustersError):
        reference, gain = crossed_mean_interval(theirs, level), crossed_mean_interval(gains, level, (-1, 1))
        p = max(sign_flip_p([sum(line) for line in lines]) for lines in (gains, list(zip(*gains, strict=True))))
        claim.reference(_mean(theirs), reference).delta(_mean(gains), gain, p)


def _mean(values: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, values)) / sum(map(len, values))
