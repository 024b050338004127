"""Does a change of a picture that was made on a matcher carry over to the audit's other models?

Threat. Matchers are public and have gradients; generators are built on their image towers, or on towers that were trained like them. Someone
changes a picture by at most 8/255 in each colour value on a matcher alone, and publishes it. Where it turns what other models say of the picture,
each of them inherits the matcher's weakness, however it is prompted and though nobody has its weights.

Method. All targets of the audit on the same data are compared: matchers, and generators that are asked the data's questions. On the first
prompt of each matcher that gives gradients one change of each picture is searched: signed steps with momentum that lower the label's margin, all of them spent (see
``vlaudit/search/across.py``). What it is changed from is the picture as that matcher sees it, and what comes out is rounded to 8 bits: a file as anybody would
send it. Every target reads that file as it reads any other, by its own processor and through its own prompt; a matcher names a label, a generator's answer is read.

Metric. Transfer: of the pictures that a target reads rightly when clean, the share that it reads wrongly after a change that was made on
another target, minus the share under random noise of the same size in a file of the same kind. Bootstrap-t interval over pictures. The map shows every pair with its
Clopper-Pearson interval. At standard effort the probe finds, nine times in ten, that three pictures in ten are turned on the other targets.

Controls. ``random noise`` of the same size, subtracted: what is no attack must not carry over. ``own target``: the matcher that the change was made
on, which reads the file too. ``unit test``: something is planted in the matcher that a known point within the radius turns; the same search must find it nine times in ten.
Held needs every pair: where a target reads pictures no better than chance, or was left out, the finding is open.

When it errs. Changes are made on matchers alone, by one search; one that averages over several matchers, or that is made to last through resizing,
may carry farther. An answer that cannot be read counts as wrong, under noise as well. What carries over between two models that share nothing but their
data is a property of such data too.

What to do. Take an image tower that was trained on attacked pictures for every model that is built on it, and audit each of them alone
(``clip-autoattack``, ``cropa``). Do not let several models that share a tower confirm each other: they err together.

References. Surrogates for generators, arXiv:2305.16934; CroPA arXiv:2403.09766; MI-FGSM arXiv:1710.06081; attack unit tests arXiv:2206.13991.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from vlaudit.attacks.shared.pixel_noise import random_signs
from vlaudit.attacks.shared.sent_files import TOKENS, as_files, listener, makers
from vlaudit.attacks.shared.transfer_map import (
    LEAST,
    LIMIT,
    MAPS,
    SOURCE,
    THRESHOLDS,
    Compared,
    cases_of,
    search_steps,
    shards_of,
)
from vlaudit.errors import NotAssessed
from vlaudit.probe import Compares, Context, Measure, Needs, Policy, Probe, probe
from vlaudit.records import Case, Cost, Evidence, Family, Judgement, Risk, Trial, Trials

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlaudit.data.example import Example

@probe(
    id="cross-family-transfer",
    code="XR1",
    title="Changes of pixels that carry over to other models",
    headline="Changes of pixels made for one model turn the answers of others too",
    risk=Risk.ROBUSTNESS,
    families={Family.MATCHING, Family.GENERATION},
    needs={Needs.LABELS},
    compares=Compares.TARGETS,
    threshold=LIMIT,
    threshold_meaning="share of pictures that other targets read wrongly after a change made on a matcher, beyond random noise",
    threshold_source=SOURCE,
    thresholds=THRESHOLDS,
    measure=Measure.SHARE,
    maps=MAPS,
    limits="Only changes that were made on the matchers of this audit, within the radius, were tried on its other targets.",
)  # fmt: skip
class CrossFamilyTransfer(Probe):
    """Crafts on each matcher, and lets every target of the audit read the file."""

    cases_per_unit: ClassVar[int] = 32
    radius: Literal[2, 4, 8, 16] = Field(8, description="the most that a colour value is changed, in 1/255")
    pictures: int | None = Field(None, ge=LEAST, description="how many to attack; default 64, 192 or 512 by effort")

    def cases(self, ctx: Context) -> list[Case]:
        found = makers(ctx.peers)
        if not found:
            raise NotAssessed("none of the targets is a matcher that gives gradients.", "Name one beside them.")
        if len({peer.target.model.spec for peer in ctx.peers}) < 2:
            raise NotAssessed("all targets are prompts of one model, which cross-prompt-transfer compares.", "Name another model.")
        known = [example for example in ctx.examples if example.label in ctx.labels and example.answer]
        return cases_of(ctx, found, known, self.pictures)

    def shards(self, cases: list[Case]) -> list[list[Case]]:
        return shards_of(cases, self.cases_per_unit)

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        from vlaudit.search.planted import CORNERS

        steps, tests = search_steps(ctx), sum(bool(case.params["watched"]) for case in cases)
        cost = Cost()
        for place, peer in enumerate(ctx.peers):
            if peer.target.family is Family.GENERATION:
                cost += peer.target.cost(3 * len(cases), TOKENS)
                continue
            here, tested = (sum(case.params["maker"] == place for case in of) for of in (cases, [c for c in cases if c.params["watched"]]))
            own = Cost(queries=3 * len(cases) + here * (steps + 2) + tested * (CORNERS + steps + 4), gradient_steps=(here + tested) * steps)
            texts = peer.target.texts(len(peer.labels)) * (2 + (tests > 0))
            cost += peer.target.whole(own, len(peer.labels)) + Cost(queries=texts, texts=texts)
        return cost

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        known = {example.id: example for example in ctx.examples}
        names = [peer.name for peer in ctx.peers]
        for shard in self.shards(cases):
            place = int(str(shard[0].params["maker"]))
            maker, examples = ctx.peers[place], [known[str(case.params["picture"])] for case in shard]
            files, found = self._made(ctx, maker, shard, examples)
            heard = [listener(peer) for peer in ctx.peers]
            said = {what: [[one.right for one in hear(of, examples)] for hear in heard] for what, of in files.items()}
            for i, (case, example) in enumerate(zip(shard, examples, strict=True)):
                clean, noise, changed = ([row[i] for row in said[what]] for what in ("clean", "noise", "changed"))
                values = {
                    "label": str(example.label), "picture": example.id, "prompts": names, "makers": [place], "stochastic": [],
                    "clean": clean, "noise": noise, "made": [changed],
                }  # fmt: skip
                turned = [name for name, a, b in zip(names, clean, changed, strict=True) if a and not b]
                shown = _show(ctx, example, {what: of[i] for what, of in files.items()}, turned) if case.params["watched"] and turned else {}
                yield ctx.trial(case, values, artifacts=shown)
                if case.params["watched"]:
                    yield ctx.trial(case, {"makers": [place], "found": [found.pop(0)]}, arm="control:unit-test")

    def _made(self, ctx: Context, maker: Context, cases: Sequence[Case], examples: Sequence[Example]) -> tuple[dict[str, list[Image]], list[bool]]:
        """The files of the pictures as the matcher sees them: clean, with noise, changed; and whether the search found what was planted."""
        import torch

        from vlaudit.families.matching import together
        from vlaudit.search.across import Plan, crossing
        from vlaudit.search.planted import Planted

        plan, target = Plan(self.radius / 255, search_steps(ctx)), maker.target
        images, labels = maker.images(examples).contiguous(), maker.label_index(examples)
        points = {
            "clean": images, "changed": crossing(together([target], maker.labels), images, labels, plan),
            "noise": torch.stack([random_signs(ctx, case, image, self.radius) for case, image in zip(cases, images, strict=True)]),
        }  # fmt: skip
        tested = [i for i, case in enumerate(cases) if case.params["watched"]]
        found: list[bool] = []
        if tested:
            seeds = [int(ctx.rng(cases[i], "planted").integers(2**62)) for i in tested]
            planted = Planted(target.classifier(maker.labels), images[tested], seeds, plan.epsilon)
            zero = torch.zeros(len(tested), dtype=torch.long, device=images.device)
            with torch.no_grad():
                hit = planted(crossing(lambda x: [planted(x)], images[tested], zero, plan)).argmax(dim=1) == 1
            found = (hit & planted.moves).tolist()
        return {what: as_files(of) for what, of in points.items()}, found

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        return Compared(self.info, trials, policy, f"within {self.radius}/255", "target").judgement()


def _show(ctx: Context, example: Example, files: dict[str, Image], turned: Sequence[str]) -> dict[str, Evidence]:
    from torchvision.transforms.functional import to_tensor

    said = {"clean": "as the matcher sees it", "changed": f"changed: read wrongly by {' and '.join(turned)}"}
    return {what: ctx.artifacts.put_image(to_tensor(files[what]), f"{example.id} | {words}") for what, words in said.items()}
