"""Targets and their references: shared where they are the same measurement, and never another model's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vlaudit.audit.naming import endings, last_part, steps, word
from vlaudit.audit.subjects import Subject
from vlaudit.audit.targets import Loader
from vlaudit.config import TargetSpec
from vlaudit.prompts.files import PromptFile, write_prompt_file
from vlaudit.zoo import WEIGHTS


def load(*specs: TargetSpec) -> tuple[list[Subject], dict[str, Subject]]:
    return Loader(torch.device("cpu"), allow_network=False).subjects(list(specs))


def test_models_of_one_name_have_references_of_their_own(tmp_path: Path) -> None:
    """Two versions of a model lie in folders of one name; each is compared with itself under the plain prompt."""
    for version, source in (("v1", "tiny-clean"), ("v2", "tiny-backdoor")):
        shutil.copytree(WEIGHTS / source, tmp_path / version / "clip")
    specs = [
        TargetSpec(model=f"hf:{tmp_path / version / 'clip'}", prompt=["an image of {}"], data="zoo:kinds")
        for version in ("v1", "v2")
    ]
    targets, references = load(*specs)
    assert len({target.id for target in targets}) == len(references) == 2
    for target in targets:
        assert target.target is not None
        reference = references[target.info.reference or ""].target
        assert reference is not None and reference.model is target.target.model
        assert reference.prompt.text == "a photo of a {}"


def test_prompts_of_one_model_share_their_reference_unless_their_data_differ() -> None:
    zoo = [TargetSpec(model=f"zoo:{name}") for name in ("poisoned-prompt", "learned-prompt", "private-prompt")]
    targets, references = load(*zoo)
    turned = {target.spec.model: target.info.reference for target in load(*zoo[::-1])[0]}
    assert {target.spec.model: target.info.reference for target in targets} == turned
    first, second, on_other_data = (target.info.reference for target in targets)
    assert first == second != on_other_data and len(references) == 2
    assert {data.source for data in (references[str(name)].data for name in (first, on_other_data))} == {
        "zoo:roles",
        "zoo:kinds",
    }


def ids(*specs: TargetSpec) -> dict[str, str]:
    """Ids by what was named, of the targets and their references."""
    targets, _ = load(*specs)
    named = {f"{t.spec.model} {t.spec.prompt} {t.spec.data}": t.id for t in targets}
    return named | {f"reference of {key}": t.info.reference or "" for key, t in zip(named, targets, strict=True)}


def prompt_file(path: Path, seed: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    ctx = torch.randn(2, 64, generator=torch.Generator().manual_seed(seed))
    write_prompt_file(path, PromptFile("coop", {"ctx": ctx}))
    return f"coop:{path}"


def test_prompts_of_one_file_name_are_named_by_the_part_of_their_paths_that_differs(tmp_path: Path) -> None:
    model, data = f"hf:{WEIGHTS / 'tiny-clean'}", "zoo:kinds"
    specs = [
        TargetSpec(model=model, data=data, prompt=[prompt_file(tmp_path / f"out/seed{n}/prompt_learner/best.safetensors", n)])
        for n in (1, 2, 3)
    ]
    named = ids(*specs)
    assert [named[f"{model} {spec.prompt} {data}"] for spec in specs] == [f"tiny-clean~coop-best-seed{n}" for n in (1, 2, 3)]
    assert ids(*specs[::-1]) == named
    alone = load(specs[0])[0][0]
    assert alone.id == "tiny-clean~coop-best" and alone.info.prompt.id == "coop-best"
    both, _ = load(specs[1], specs[0])
    assert both[1].info.prompt.id == "coop-best-seed1" == both[1].target.prompt.id  # type: ignore[union-attr]
    assert both[1].info.prompt.path == specs[0].prompt[0].removeprefix("coop:")


def test_one_file_in_two_ways_has_two_names_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar-50"
    torch.save({"state_dict": {"ctx": torch.randn(2, 64)}}, path)
    specs = [
        TargetSpec(model=f"hf:{WEIGHTS / 'tiny-clean'}", data="zoo:kinds", prompt=[f"coop:file={path},position={position}"])
        for position in ("end", "front")
    ]
    named = ids(*specs)
    assert len(set(named.values())) == 3 and ids(*specs[::-1]) == named


def test_models_and_data_of_one_folder_name_are_named_in_any_order(tmp_path: Path, picture_folder: Path) -> None:
    for version, source in (("v1", "tiny-clean"), ("v2", "tiny-backdoor")):
        shutil.copytree(WEIGHTS / source, tmp_path / version / "clip")
        shutil.copytree(picture_folder, tmp_path / version / "pictures")
    models = [f"hf:{tmp_path / version / 'clip'}" for version in ("v1", "v2")]
    specs = [TargetSpec(model=model, data="zoo:kinds", prompt=["an image of {}"]) for model in models]
    named = ids(*specs)
    assert set(named.values()) == {f"clip-{v}~{p}" for v in ("v1", "v2") for p in ("an-image-of", "a-photo-of-a")}
    assert ids(*specs[::-1]) == named
    on_data = [TargetSpec(model=models[0], data=str(tmp_path / v / "pictures")) for v in ("v1", "v2")]
    named = ids(*on_data)
    assert set(named.values()) == {"clip~a-photo-of-a-v1", "clip~a-photo-of-a-v2", ""}
    assert ids(*on_data[::-1]) == named


def test_texts_that_make_one_id_have_two_names_in_any_order() -> None:
    specs = [TargetSpec(model="zoo:clean", prompt=[text]) for text in ("a photo: {}", "a photo; {}")]
    named = ids(*specs)
    assert len(set(named.values())) == 3 and ids(*specs[::-1]) == named


def test_a_specimen_and_its_reference_keep_their_names() -> None:
    named = ids(TargetSpec(model="zoo:tiny-clean", prompt=["an image of {}"]))
    assert list(named.values()) == ["tiny-clean~an-image-of", "tiny-clean~a-photo-of-a"]
    assert set(ids(TargetSpec(model="zoo:learned-prompt")).values()) == {
        "learned-prompt~coop-prompt-clean", "flagship~a-photo-of-a"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["a/p", "b/p"], ["-a", "-b"]),
        (["a/x/p", "b/x/p", "c/y/p"], ["-a", "-b", "-c"]),
        (["a/x/p", "b/x/p", "b/y/p"], ["-a-x", "-b-x", "-b-y"]),
        (["p.pt", "p.pth"], ["-p.pt", "-p.pth"]),
        (["p", "q/p"], ["", "-q"]),
        (["only/p"], [""]),
    ],
)
def test_endings_are_the_nearest_steps_that_differ(paths: list[str], wanted: list[str]) -> None:
    found = endings({path: ("p", path.split("/"), path) for path in paths})
    assert list(found.values()) == wanted
    assert endings({path: ("p", path.split("/"), path) for path in paths[::-1]}) == found


def test_endings_of_what_no_path_tells_apart_are_digests() -> None:
    found = endings({text: ("p", [], text) for text in ("one", "two")} | {"other": ("q", [], "x")})
    assert found["other"] == "" and len({*found.values()}) == 3 and len(found["one"]) == 7
    foreign = endings({path: ("p", [path, "p"], path) for path in ("模型", "数据")})
    assert len(set(foreign.values())) == 2


def test_a_finding_of_two_models_of_one_name_is_replayed_as_it_was_planned(
    tmp_path: Path, picture_folder: Path, mirror_plugin: Path, vlaudit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for version, source in (("v1", "tiny-clean"), ("v2", "tiny-backdoor")):
        shutil.copytree(WEIGHTS / source, tmp_path / version / "clip")
    targets = [f"hf:{tmp_path / version / 'clip'}" for version in ("v1", "v2")]
    out = tmp_path / "out"
    flags = ("--plugin", mirror_plugin, "--probe", "mirror", "--fail-on", "none", "--prompt", "an image of {}")
    assert vlaudit("scan", *targets, *flags, "--data", picture_folder, "--out", out) == 0
    findings = json.loads((out / "report.json").read_text())["findings"]
    capsys.readouterr()
    assert vlaudit("replay", out, findings[1]["id"], "--plugin", mirror_plugin, "--out", tmp_path / "again") == 0
    assert "in another way" not in capsys.readouterr().out


def test_names_that_a_disk_or_a_reader_takes_for_one_get_endings() -> None:
    def ids(*paths: str) -> list[str]:
        found = endings({path: (last_part(path), steps(path), path) for path in paths})
        return [word(last_part(path)) + found[path] for path in paths]

    assert ids("hf:a/модель", "hf:a/模型") == ["модель", "模型"]
    for pair in (["hf:a/Model", "hf:a/model"], ["hf:a/e\u0301", "hf:a/\u00e9"], [f"hf:{'x' * 60}{n}" for n in (1, 2)]):
        assert len({id_.casefold() for id_ in ids(*pair)}) == 2 and all(len(id_) < 60 for id_ in ids(*pair))
    assert ids("hf:a/Run/model", "hf:b/run/model") == ["model-a", "model-b"]
    assert last_part("hf:.") == Path.cwd().name
