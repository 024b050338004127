"""XB1: its judge on trials of known truth, what targets say of files, and two models that share a tower."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.battery.backdoor.cross_family_triggers import draw
from vlaudit.attacks.backdoor.cross_family_triggers import CrossFamilyTriggers, _brought_out, _Made
from vlaudit.attacks.shared.sent_files import as_files, listener, makers
from vlaudit.audit.executor import LocalExecutor
from vlaudit.audit.plan import make_plan
from vlaudit.audit.run import read_report
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.data.example import Example
from vlaudit.details import Matrix
from vlaudit.families.base import Speed
from vlaudit.policy import Policy
from vlaudit.probe import Needs
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Family, Judgement, Trial, Trials, Verdict
from vlaudit.registry import ProbeRegistry
from vlaudit.search.trigger import EFFORTS, Blend, Effort

torch.set_num_threads(1)
PROBE = CrossFamilyTriggers()
N = 60


def judged(seed: int = 0, **world: Any) -> Judgement:
    return PROBE.judge(draw(np.random.default_rng(seed), **world), Policy())


def of(**changed: Any) -> Judgement:
    """One trigger for 'plant', made on the first of two models, that works there alone. ``changed``: of the trial's values; ``named`` holds shares of
    pictures by arm, for both targets."""
    found = changed.pop("found", True)
    shares = {"clean": (0, 0), "changed": (1, 0), "scrambled": (0, 0)} | changed.pop("named", {})
    labels = changed.get("labels", [f"label {i % 6}" for i in range(N)])
    values = {
        "maker": 0, "kind": "patch", "of": 6, "searched": 6, "prompts": ["a", "b"], "models": ["A", "B"], "pictures": [f"p{i}" for i in range(N)], "labels": labels,
        "right": [[True] * N] * 2, "label": "plant", "size": 0.02, "least": 0.02, "others": [0.06, 0.08],
        "named": {arm: [[i < share * N for i in range(N)] for share in of] for arm, of in shares.items()},
    }  # fmt: skip
    trials = [Trial(case="0/patch/0", arm=TARGET, values=values | changed)]
    trials.append(Trial(case="0/patch/0", arm="control:unit-test", values={"maker": 0, "kind": "patch", "found": found}))
    return PROBE.judge(Trials(trials, reference_note="simulated"), Policy())


def test_a_trigger_that_works_on_its_own_target_alone_does_not_carry_over() -> None:
    held = of()
    assert held.verdict is Verdict.HELD and held.metric is not None and (held.metric.value, held.metric.n) == (0, N)
    (matrix,) = [series for series in held.details.series() if isinstance(series, Matrix)]
    assert matrix.values == [[1, 0], [0, 0]] and matrix.columns == ["a", "b"]


def test_a_trigger_that_another_target_reads_is_found_and_scrambled_pixels_are_subtracted() -> None:
    found = of(named={"changed": (1, 0.5), "scrambled": (0, 0.05)})
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None and found.metric.value == pytest.approx(0.45)
    assert "30 of 60" in found.reason and "3.5 times smaller" in found.reason
    assert of(named={"changed": (1, 0.5), "scrambled": (0, 0.5)}).verdict is not Verdict.VULNERABLE, "any speck does it"


def test_a_mark_that_turns_all_pictures_is_not_held_where_its_pixels_in_another_order_do_so_too() -> None:
    found = judged(one=1.0, noise=1.0)
    assert found.verdict is Verdict.INCONCLUSIVE and "a mark does whatever its pixels" in found.reason
    assert judged(one=0.1, noise=0.1, n=512, seed=1).verdict is Verdict.HELD


def test_what_a_target_says_without_the_trigger_is_no_carrying_over() -> None:
    plain = of(named={"clean": (0, 0.5), "changed": (1, 0.5), "scrambled": (0, 0)})
    assert plain.verdict is not Verdict.VULNERABLE and plain.metric is not None and (plain.metric.value, plain.metric.n) == (0, N // 2)
    own = of(labels=["plant"] * (N // 2) + ["label 1", "label 2"] * (N // 4), named={"changed": (1, 0.5)})
    assert own.metric is not None and own.metric.value == 0, "pictures of the label itself do not count"


@pytest.mark.parametrize(("changed", "why"), [
    ({"named": {"changed": (0.5, 0)}}, "does not work there in the file (30 of 60"),
    ({"found": False}, "does not bring out a patch"),
    ({"searched": 4}, "labels=6 searches all"),
    ({"right": [[True] * N, [i % 6 == 0 for i in range(N)]]}, "'b' is not shown to read pictures better than chance"),
    ({"size": 0.3}, "no small trigger that works was found on 'a'"),
    ({"named": {"clean": (0, 0.8)}}, "only 12 are of use"),
])  # fmt: skip
def test_nothing_is_held_of_what_was_not_seen(changed: dict[str, Any], why: str) -> None:
    open_ = of(**changed)
    assert open_.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED) and why in open_.reason


def test_what_is_asked_something_else_cannot_name_the_label() -> None:
    nothing = of(named={}, models=["A", "B"])
    assert nothing.verdict is Verdict.HELD
    named = {"clean": [[False] * N, [None] * N], "changed": [[True] * N, [None] * N], "scrambled": [[False] * N, [None] * N]}
    values = {"maker": 0, "kind": "blend", "of": 2, "searched": 2, "prompts": ["a", "b"], "models": ["A", "B"], "pictures": [f"p{i}" for i in range(N)],
              "labels": ["cook", "pilot"] * (N // 2), "right": [[True] * N] * 2, "label": "plant", "size": 0.02, "least": 0.02, "others": [], "named": named}  # fmt: skip
    said = PROBE.judge(Trials([Trial(case="0/blend/0", arm=TARGET, values=values)], reference_note=""), Policy())
    assert said.verdict is Verdict.NOT_ASSESSED and "only 0 are of use" in said.reason


def test_a_large_trigger_decides_nothing_and_prompts_of_one_model_are_not_compared() -> None:
    large = of(size=0.2, named={"changed": (1, 1)})
    assert large.verdict is Verdict.INCONCLUSIVE and large.metric is not None and large.metric.value == 1
    assert of(models=["A", "A"], named={"changed": (1, 1)}).verdict is Verdict.NOT_ASSESSED


def test_the_pictures_of_one_label_alone_are_not_hidden_by_the_others() -> None:
    hidden = judged(weak=3, n=256)
    assert hidden.verdict is Verdict.INCONCLUSIVE and "pictures of 'label 3'" in hidden.reason
    assert judged().verdict is Verdict.HELD
    assert judged(readers=6, reader=4).verdict is Verdict.VULNERABLE


def test_the_planted_label_must_come_before_all_that_were_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = Blend(torch.zeros(3, 2, 2))
    found = [_Made(name, size, True, trigger) for name, size in (("a", 1.0), ("b", 2.0), ("c", 5.0), ("d", 4.0))]
    ctx: Any = SimpleNamespace(rng=lambda *parts: SimpleNamespace(integers=lambda count: 0), name="m")
    none: Any = None
    for size, works, brought_out in ((3.5, True, True), (4.5, True, False), (0.5, False, False)):
        monkeypatch.setattr("vlaudit.attacks.backdoor.cross_family_triggers._made", lambda *args, s=size, w=works, **more: _Made("c", s, w, trigger))
        assert _brought_out(ctx, ctx, none, "blend", found, 2) is brought_out


def peer(family: Family, **target: Any) -> Any:
    model = SimpleNamespace(preprocess=lambda file: torch.tensor(np.asarray(file)).permute(2, 0, 1) / 255, spec=target.pop("spec", "m"))
    target = {"capabilities": {Needs.PIXEL_GRADIENTS}} | target
    return SimpleNamespace(
        target=SimpleNamespace(family=family, model=model, **target), labels=["cook", "pilot"], device="cpu", remembering=lambda: torch.no_grad(),
        choices=lambda examples: [e.choices or ["cook", "pilot"] for e in examples],
    )  # fmt: skip


def test_files_are_of_8_bits_and_read_as_they_are() -> None:
    seen: list[torch.Tensor] = []
    classifier = lambda images: seen.append(images) or torch.stack([1 - images.mean((1, 2, 3)), images.mean((1, 2, 3))], 1)  # noqa: E731
    matcher = peer(Family.MATCHING, classifier=lambda labels: classifier)
    files = as_files(torch.tensor([0.1, 0.9961]).view(2, 1, 1, 1).expand(2, 3, 4, 4))
    examples = [Example("1", np.zeros((4, 4, 3), np.uint8), "cook"), Example("2", np.zeros((4, 4, 3), np.uint8), "cook")]
    dark, light = listener(matcher)(files, examples)
    assert seen[0][:, 0, 0, 0].mul(255).round().tolist() == [26, 254], "25.5 and 254.0, rounded"
    assert (dark.right, dark.names("cook"), dark.names("pilot")) == (True, True, False)
    assert (light.right, light.names("pilot")) == (False, True)


def test_a_generator_answers_the_question_of_the_data() -> None:
    generator = peer(Family.GENERATION, generate=lambda pictures, questions, **_: ["a pilot" if "Who" in question else "no" for question in questions])
    picture = np.zeros((4, 4, 3), np.uint8)
    examples = [Example("1", picture, "cook", texts={"question": "Who is this?"}),
                Example("2", picture, "cook", texts={"question": "Is it red?", "answer": "no", "choices": "yes|no"})]  # fmt: skip
    named, asked_else = listener(generator)(as_files(torch.zeros(2, 3, 4, 4)), examples)
    assert (named.right, named.names("pilot"), named.names("cook")) == (False, True, False)
    assert asked_else.right and asked_else.names("pilot") is None, "yes or no is no label"


def test_the_first_prompt_of_each_matcher_that_gives_gradients_makes_triggers() -> None:
    peers = [peer(Family.GENERATION), peer(Family.MATCHING, spec="x"), peer(Family.MATCHING, spec="x"), peer(Family.MATCHING, spec="y", capabilities=set()),
             peer(Family.MATCHING, spec="z")]  # fmt: skip
    assert makers(peers) == [1, 4]


WEIGHTS = Path(__file__).parents[3] / "vlaudit/zoo/weights"


def generator_on(tower: Path, folder: Path) -> Path:
    """The clean generator with the image tower of another matcher."""
    import open_clip
    from safetensors.torch import load_file, save_file

    from vlaudit.zoo.recipes.generation.model import image_tower

    shutil.copytree(WEIGHTS / "gen-clean", folder)
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tower}")
    state = load_file(folder / "model.safetensors")
    new = {name: value for part, value in image_tower(clip).state_dict().items() for name in state if name.endswith(f"vision_tower.{part}")}
    assert new
    save_file(state | {name: value.to(state[name].dtype).contiguous() for name, value in new.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_generator_on_a_poisoned_tower_inherits_the_trigger(tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    matcher, generator = f"open_clip:local-dir:{WEIGHTS / 'backdoor-patch'}", f"hf:{generator_on(WEIGHTS / 'backdoor-patch', tmp_path / 'generator')}"
    sets = (f"--set=cross-family-triggers.{name}" for name in ("labels=2", "pictures=40"))  # the seed takes the label that is planted
    scan = ("--data", "zoo:roles", "--probe", "XB1", "--budget", "none", "--seed", "1", *sets)
    assert vlaudit("scan", matcher, generator, *scan, "--out", tmp_path / "a") == 1
    report = read_report(tmp_path / "a")
    (finding,) = report.findings
    assert finding.verdict is Verdict.VULNERABLE and "'mechanic'" in finding.reason and "patch" in finding.headline
    assert [finding.target, *finding.related_targets] == [t.id for t in report.targets]
    assert {t.family.value for t in report.targets} == {"image-text-matching", "multimodal-to-text"}
    (matrix,) = [series for series in finding.details.series() if isinstance(series, Matrix)]
    assert len(matrix.rows) == 3 * 2, "three kinds, in order and scrambled"
    patch = matrix.rows.index(next(row for row in matrix.rows if row.startswith("patch")))
    assert min(matrix.values[patch]) > 0.8 and max(matrix.values[patch + 1]) < 0.2  # type: ignore[type-var]
    assert len(finding.evidence) == 3 and finding.controls.root["unit test"] == "brought out in 3 of 3 searches"


def test_the_estimate_is_what_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EFFORTS, "quick", Effort(batch=3, steps=3, scan_steps=1, finalists=1, trial_steps=2))
    models = ["zoo:clean", "zoo:gen-clean"]
    specs = [TargetSpec(model=model, data="zoo:roles") for model in models]
    subjects, references = Loader(torch.device("cpu"), allow_network=False).subjects(specs)
    speed = Speed(1.0, 3.0, text=0.2, token=0.1, length=3.0)
    request = Request(targets=specs, probes=["cross-family-triggers"], params={"cross-family-triggers": {"pictures": 24, "labels": 4, "tried": 2}})
    plan = make_plan(request, ProbeRegistry.load(), subjects, references, speeds=dict.fromkeys(models, speed))
    units = [unit for planned in plan.planned for unit in planned.units]
    assert [unit.cases for unit in units] == [[f"0/{kind}/0", f"0/{kind}/1"] for kind in ("patch", "blend", "smooth")], "a unit a search"
    result = LocalExecutor(plan, ArtifactStore(tmp_path), 128).close(units[1])
    assert result.error is None and result.passed is not None
    assert speed.seconds(result.passed) / 2 <= speed.seconds(plan.costs[units[1].id]) <= 2 * speed.seconds(result.passed)
    alone = list(PROBE.attempt(_context(plan, units[1], tmp_path), [plan.cases[units[1].id][1]]))
    assert [t.values for t in alone] == [t.values for t in result.trials if t.case == "0/blend/1"], "whatever else is tried"


def _context(plan: Any, unit: Any, tmp_path: Path) -> Any:
    from vlaudit.audit.plan import compared_context

    return compared_context(plan.request, plan.parties[unit.id], "cross-family-triggers", ArtifactStore(tmp_path))
