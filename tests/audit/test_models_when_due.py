"""Models lie in memory while their units run: large ones one after the other, and what was found out stays."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vlaudit.audit import targets
from vlaudit.audit.executor import Job
from vlaudit.audit.plan import Plan, make_plan
from vlaudit.audit.run import open_audit, run_audit
from vlaudit.audit.targets import Loader
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.config import Request, TargetSpec
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError
from vlaudit.families.base import Model
from vlaudit.plugins import plugin
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Finding
from vlaudit.registry import ProbeRegistry
from vlaudit.zoo import WEIGHTS

TWO = '''"""Two probes whose cases look at the model."""

from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Family, Judgement, Risk


class Looking(Probe):
    def cases(self, ctx):
        assert ctx.target.model.resolution
        return [Case(id=str(number)) for number in range(ctx.afford(self.many, "cases"))]

    def shards(self, cases):
        return [[case] for case in cases]

    def attempt(self, ctx, cases):
        return [ctx.trial(case) for case in cases]

    def judge(self, trials, policy):
        return Judgement.inconclusive("it only looks")


@probe(id="one", code="X1", risk=Risk.ROBUSTNESS, families={Family.MATCHING})
class One(Looking):
    many: int = 8


@probe(id="two", code="X2", risk=Risk.ROBUSTNESS, families={Family.MATCHING})
class Two(Looking):
    many: int = 40
'''


class Loads:
    """Counts the loads of each model, and the most that were alive at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.how: list[Loading] = []
        self.most = 0
        self.alive: weakref.WeakSet[Model] = weakref.WeakSet()
        real = HuggingFaceBackend.load

        def load(backend: HuggingFaceBackend, argument: str, device: torch.device, how: Loading = PLAIN) -> Model:
            model = real(backend, argument, device, how)
            self.names.append(Path(argument).name)
            self.how.append(how)
            self.alive.add(model)
            gc.collect()
            self.most = max(self.most, len(self.alive))
            return model

        monkeypatch.setattr(HuggingFaceBackend, "load", load)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    torch.set_num_threads(1)
    return Loads(monkeypatch)


def specs(folder: Path) -> list[TargetSpec]:
    """Three models in folders of their own, of which the first is audited under two prompts, named apart."""
    models = []
    for name in "abc":
        shutil.copytree(WEIGHTS / "tiny-clean", folder / name, dirs_exist_ok=True)
        models.append(f"hf:{folder / name}")
    prompts = ["an image of {}", "{}", "an image of {}", "a {}"]
    return [
        TargetSpec(model=model, prompt=[prompt], data="zoo:kinds")
        for model, prompt in zip([*models, models[0]], prompts, strict=True)
    ]


def planned(folder: Path, plugin: Path, budget: float | None = None) -> tuple[Plan, ProbeRegistry]:
    registry = ProbeRegistry.load([plugin])
    request = Request(targets=specs(folder), probes=sorted(set(registry.classes) & {"mirror", "one", "two"}), budget=budget)
    subjects, references = Loader(torch.device("cpu"), allow_network=False).subjects(request.targets)
    return make_plan(request, registry, subjects, references), registry


def run(folder: Path, mirror: Path, out: str) -> list[Finding]:
    plan, registry = planned(folder, mirror)
    journal, manifest = open_audit(folder / out, plan, "scan", {})
    observer = plugin("reporters", "terminal")().progress(Console(quiet=True))
    job = Job(plan, ArtifactStore(journal.folder), debug=out == "one")  # in this process
    outcome = run_audit(job, journal, manifest, registry, observer)
    assert not outcome.report.audit.errors
    return outcome.report.findings


def test_large_models_are_in_memory_one_at_a_time(
    loads: Loads, tmp_path: Path, mirror_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run(tmp_path, mirror_plugin, "all")
    assert loads.most == 3 and loads.names == ["a", "b", "c"]  # a's two targets share it, and come one after the other
    loads.names.clear()
    loads.most = 0
    loads.how.clear()
    monkeypatch.setattr(targets, "KEPT", 0)
    gc.collect()
    one = run(tmp_path, mirror_plugin, "one")
    assert loads.most == 1
    assert set(loads.names) == {"a", "b", "c"} and len(loads.names) <= 9
    measured = [how.before is not None for how in loads.how]
    assert measured == [False] * 3 + [True] * (len(loads.names) - 3)  # what loading found out is not measured again
    assert [finding.metric for finding in one] == [finding.metric for finding in together]


def test_a_budget_is_divided_without_loading_each_model_again_and_again(
    loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "KEPT", 0)
    (tmp_path / "two.py").write_text(TWO)
    plan, _ = planned(tmp_path, tmp_path / "two.py", budget=5.0)
    assert plan.whole is not None and plan.whole > 5 and 0.1 < min(plan.shares.values()) < 1
    assert len(loads.names) == 9  # to be checked, timed, and planned


def test_forked_workers_share_what_their_parent_loaded(loads: Loads, tmp_path: Path, mirror_plugin: Path) -> None:
    """Loads in workers would not be counted here, so each model has to be whole before the fork."""
    plan, _ = planned(tmp_path, mirror_plugin)
    assert all(subject.target and subject.target.loaded for subject in [*plan.targets, *plan.references.values()])


def test_weights_that_change_meanwhile_are_refused(
    loads: Loads, tmp_path: Path, mirror_plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "KEPT", 0)
    loader = Loader(torch.device("cpu"), allow_network=False)
    first, *_ = loader.subjects(specs(tmp_path))[0]
    assert first.target is not None and not first.target.loaded
    cut = first.target.model.cut
    loader._make_room(0)
    assert not first.target.loaded and first.target.model.cut is cut  # how much fits is not measured again
    loader._make_room(0)
    shutil.copytree(WEIGHTS / "tiny-backdoor", tmp_path / "a", dirs_exist_ok=True)
    assert first.target.capabilities  # known without the model
    with pytest.raises(ModelError, match="changed while it was audited"):
        _ = first.target.model
