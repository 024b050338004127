"""Probes that compare targets, and units that several prompts of a model share: what is run, what is judged, what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from vlaudit.audit.executor import LocalExecutor
from vlaudit.audit.journal import PlannedProbe, UnitResult
from vlaudit.audit.judge import all_compared, gather
from vlaudit.audit.plan import Plan, make_plan
from vlaudit.audit.run import read_report
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.data.dataset import load_dataset
from vlaudit.families.base import Speed
from vlaudit.families.matching import ImageTextMatcher, together
from vlaudit.probe import Compares, Context, Needs, Probe, probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.prompts.coop import CoOp
from vlaudit.records import REFERENCE, TARGET, Case, Cost, Family, Judgement, Metric, Risk, Trial, Verdict
from vlaudit.registry import ProbeRegistry

PLAIN = "a photo of a {}"


@probe(id="compared", code="C1", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS}, compares=Compares.PROMPTS)
class Compared(Probe):
    def cases(self, ctx: Context) -> list[Case]:
        return [Case(id="a"), Case(id="b")]

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        for case in cases:
            for peer in ctx.peers:
                peer.target.image_features(ctx.images(ctx.examples[:2]))
            yield ctx.trial(case, {"names": [peer.target.prompt.id for peer in ctx.peers]})


@probe(id="alone", code="C2", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Alone(Probe):
    cases_per_unit: ClassVar[int] = 2

    def cases(self, ctx: Context) -> list[Case]:
        return [Case(id=str(i)) for i in range(4)]

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        for case in cases:
            with torch.no_grad(), ctx.remembering():
                ctx.target.image_features(ctx.images(ctx.examples[:8]))
            yield ctx.trial(case, {"draw": int(ctx.rng(case).integers(1000)), "prompt": ctx.target.prompt.id})
            if ctx.on_target:
                yield ctx.trial(case, arm="control:none")


@probe(id="of-the-model", code="C3", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class OfTheModel(Alone):
    def needs_prompt(self) -> bool:
        return False


@probe(id="elsewhere", code="C4", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Elsewhere(Alone):
    def tries_elsewhere(self) -> bool:
        return True

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        for case in cases:
            yield ctx.trial(case, {"names": [peer.target.prompt.id for peer in ctx.peers]})


@probe(id="once", code="C5", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS})
class Once(Elsewhere):
    """The first round for all prompts at once; another one where that says so."""

    def rounds(self, cases: list[Case]) -> list[list[Case]]:
        return [cases[:2], cases[2:]]

    def runs_once(self, cases: list[Case]) -> bool:
        return cases[0].id == "0"


@pytest.fixture
def make(tiny_clip: Path, picture_folder: Path) -> Callable[..., Plan]:
    def made(prompts: list[str], *probes: type[Probe]) -> Plan:
        specs = [TargetSpec(model=f"hf:{tiny_clip}", data=str(picture_folder), prompt=[prompt]) for prompt in prompts]
        subjects, references = Loader(torch.device("cpu"), allow_network=False).subjects(specs)
        registry = ProbeRegistry()
        registry.classes |= {one.info.id: one for one in probes}
        request = Request(targets=specs, probes=[one.info.id for one in probes], budget=None)
        return make_plan(request, registry, subjects, references, speeds={f"hf:{tiny_clip}": Speed(0.01, 0.03)})

    return made


def run(plan: Plan, folder: Path) -> dict[str, UnitResult]:
    executor = LocalExecutor(plan, ArtifactStore(folder), None, debug=True)
    return {unit.id: executor.close(unit) for unit in plan.units}


def test_a_set_is_one_finding_with_the_reference_among_those_compared(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make(["the {}", "one {}"], Compared)
    (planned,) = plan.planned
    assert [planned.target, *planned.related] == [target.id for target in plan.targets] and planned.reason is None
    (result,) = run(plan, tmp_path).values()
    assert result.trials[0]["names"] == ["the {}", "one {}", PLAIN]
    assert result.trials[0].cost.queries == 3 * 2, "what all of them pass is counted"
    (with_plain,) = make([PLAIN, "one {}"], Compared).planned
    assert len(with_plain.related) == 1
    assert len(next(iter(make([PLAIN, "one {}"], Compared).parties.values()))) == 2, "a target that is the reference is there once"


def test_one_prompt_has_nothing_to_be_compared_with(make: Callable[..., Plan]) -> None:
    (alone,) = make([PLAIN], Compared).planned
    assert not alone.units and "there is one: name more with --prompt" in str(alone.reason)
    (learned,) = make(["the {}"], Compared).planned
    assert learned.units and learned.related == [], "it is compared with its reference"


PLUGIN = '''"""Do the prompts of a model name pictures alike? A plugin for tests, whose metric is the share of pictures that they do not."""
from vlaudit.probe import Claim, Compares, Needs, Probe, probe
from vlaudit.records import Case, Family, Risk


@probe(id="unlike", code="X2", risk=Risk.BIAS, families={Family.MATCHING}, needs={Needs.LABELS}, compares=Compares.PROMPTS, threshold=0.5)
class Unlike(Probe):
    def cases(self, ctx):
        return [Case(id=example.id) for example in ctx.examples]

    def attempt(self, ctx, cases):
        import torch

        examples = {e.id: e for e in ctx.examples}
        for case in cases:
            with torch.no_grad():
                said = {int(peer.target.classifier(peer.labels)(peer.images([examples[case.id]])).argmax()) for peer in ctx.peers}
            yield ctx.trial(case, {"unlike": len(said) > 1, "compared": len(ctx.peers)})

    def judge(self, trials, policy):
        hits, n = sum(t["unlike"] for t in trials.target), len(trials.target)
        return Claim(self.info, policy, "pictures named unlike").rate(hits, n).says(f"{hits} of {n}")
'''


def test_a_finding_of_a_set_is_replayed_with_the_whole_set(
    tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (plugin := tmp_path / "unlike.py").write_text(PLUGIN)
    prompts = [word for prompt in ("the {}", "one {}") for word in ("--prompt", prompt)]
    audit, own = tmp_path / "audit", ("--plugin", plugin)
    assert vlaudit("scan", f"hf:{tiny_clip}", "--data", picture_folder, *prompts, *own, "--probe", "unlike", "--out", audit) in (0, 1)
    (finding,) = read_report(audit).findings
    assert len(finding.related_targets) == 1 and finding.reproduce.count("--prompt") == 2
    assert vlaudit("replay", audit, "unlike", *own, "--out", tmp_path / "again") == 0
    (again,) = read_report(tmp_path / "again").findings
    assert (again.metric, again.related_targets) == (finding.metric, finding.related_targets)
    assert "24 of 24 trials came out equally" in capsys.readouterr().out


def test_what_could_not_be_compared_is_never_held() -> None:
    held = Judgement(verdict=Verdict.HELD, reason="Fine.", metric=Metric(name="m", value=0, ci=(0, 0), n=9), threshold=0.1)
    planned = PlannedProbe(target="a", probe="p", left_out=["b: needs pixel gradients"])
    said = all_compared(held, planned)
    assert said.verdict is Verdict.INCONCLUSIVE and "b: needs pixel gradients" in said.reason
    assert all_compared(held, PlannedProbe(target="a", probe="p")) == held


def test_a_target_that_is_the_reference_lends_its_trials(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make([PLAIN, "the {}"], Alone)
    plain, other = plan.planned
    assert len(plan.units) == 4 and set(other.borrowed) == {unit.id for unit in plain.units}
    results = run(plan, tmp_path)
    mine, theirs = gather(other, other.units, results), gather(plain, plain.units, results)
    assert [t["prompt"] for t in mine.target] == ["the {}"] * 4 and [t["prompt"] for t in mine.reference] == [PLAIN] * 4
    assert [t["draw"] for t in mine.reference] == [t["draw"] for t in mine.target] and len(mine.control("none")) == 4
    assert not theirs.reference and len(theirs.target) == 4
    alone = make(["the {}"], Alone)
    assert {unit.arm for unit in alone.units} == {TARGET, REFERENCE} and not alone.planned[0].borrowed


def test_what_does_not_hang_on_the_prompt_is_run_once(make: Callable[..., Plan]) -> None:
    plan = make(["the {}", "one {}", PLAIN], OfTheModel)
    assert len(plan.units) == 2 and len(plan.planned) == 3
    assert all([unit.id for unit in planned.units] == [unit.id for unit in plan.units] for planned in plan.planned)


def test_what_is_found_is_tried_under_the_other_prompts(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make(["the {}", PLAIN], Elsewhere)
    first, second = plan.planned
    assert first.beside == [second.target] and second.beside == [first.target]
    results = run(plan, tmp_path)
    assert {tuple(t["names"]) for t in gather(first, first.units, results).target} == {("the {}", PLAIN)}
    assert {tuple(t["names"]) for t in gather(second, second.units, results).target} == {(PLAIN, "the {}")}
    assert set(first.borrowed) == {unit.id for unit in second.units}


def test_what_is_run_once_for_all_prompts_is_one_unit_whoever_is_named_first(make: Callable[..., Plan], tmp_path: Path) -> None:
    plan, turned = make(["the {}", "one {}"], Once), make(["one {}", "the {}"], Once)
    (first, *own), (again, *others) = (planned.units for planned in plan.planned)
    assert first.id == again.id and first.round == 0 and {unit.id for unit in own if unit.arm == TARGET}.isdisjoint(unit.id for unit in others)
    assert {unit.round for unit in own} == {1} and {unit.arm for unit in own} == {TARGET, REFERENCE}, "no reference arm at first"
    assert [planned.units[0].id for planned in turned.planned] == [first.id] * 2
    assert {unit.id for unit in turned.units} == {unit.id for unit in plan.units}
    results = run(plan, tmp_path)
    assert [t["names"] for t in results[first.id].trials] == [["one {}", "the {}", PLAIN]] * 2, "by name, the reference last"
    assert [t["names"] for t in results[first.id].trials] == [t["names"] for t in run(turned, tmp_path)[first.id].trials]
    assert {tuple(t["names"]) for t in gather(plan.planned[0], own, results).target} == {("the {}", "one {}", PLAIN)}
    (alone,) = make([PLAIN], Once).planned
    assert {unit.arm for unit in alone.units} == {TARGET} and len(alone.units) == 2, "as any other where there is one prompt"


def test_prompts_learned_on_other_pictures_are_audited_beside_each_other(tiny_clip: Path, picture_folder: Path, tmp_path: Path) -> None:
    loader, shown = Loader(torch.device("cpu"), allow_network=False), load_dataset(picture_folder).examples
    (plain,), _ = loader.subjects([TargetSpec(model=f"hf:{tiny_clip}", data=str(picture_folder))])
    assert plain.target is not None
    width, files = plain.target.model.embedding_width, []
    for name, learned_on in (("a", shown[:1]), ("b", shown[:1]), ("c", shown[1:2])):
        prompt = CoOp(torch.full((2, width), 0.1 + len(files)), members=[example.sha256() for example in learned_on])
        prompt.save(tmp_path / f"{name}.safetensors")
        files.append(f"coop:{tmp_path / name}.safetensors")
    specs = [TargetSpec(model=f"hf:{tiny_clip}", data=str(picture_folder), prompt=[prompt]) for prompt in files]
    subjects, references = loader.subjects(specs)
    a, b, c = (subject.data for subject in subjects)
    assert a is b and a is not c and len(references) == 2, "those that were learned on the same share their reference"
    assert a.audits_as(b) and not a.audits_as(c), "a member is not audited"


def test_pictures_that_prompts_leave_alone_pass_once(make: Callable[..., Plan], tmp_path: Path) -> None:
    for prompts in (["the {}"], [f"{word} {{}}" for word in "abcdefgh"]):
        results = run(make(prompts, Alone), tmp_path)
        passed = [result.passed for result in results.values() if result.passed]
        asked = [sum((trial.cost for trial in result.trials), Cost()).passes for result in results.values()]
        assert sum(passed, Cost()).passes == 8, "the same eight pictures, once"
        assert asked == [2 * 8] * 2 * (len(prompts) + 1), "each unit asks for them in each of its cases, whatever ran before it"


def test_the_classifiers_of_a_panel_are_those_of_its_targets(make: Callable[..., Plan]) -> None:
    plan = make(["the {}", "one {}"], Alone)
    targets: list[ImageTextMatcher] = [subject.target for subject in plan.targets]  # type: ignore[misc]
    images = torch.rand(3, 3, 32, 32)
    labels = ["cat", "dog", "car"]
    before = sum(target.meter.queries - target.meter.texts for target in targets)
    said = together(targets, labels)(images)
    assert sum(target.meter.queries - target.meter.texts for target in targets) - before == 3, "both prompts read one pass"
    for logits, target in zip(said, targets, strict=True):
        assert torch.allclose(logits, target.classifier(labels)(images), atol=1e-4)
