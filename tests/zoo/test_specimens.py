"""The table of specimens, and the measured facts on which its expectations stand."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.zoo.kit import facts_of, target_of
from vlaudit import zoo
from vlaudit.errors import UsageError
from vlaudit.files import folder_files
from vlaudit.records import Family
from vlaudit.zoo import DEFAULTS, WEIGHTS, Specimen, folder, get, specimens

ALL = specimens()


def test_the_table_is_light():
    code = "import sys, vlaudit.zoo; vlaudit.zoo.specimens(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_unique_and_the_default_exists():
    assert len({specimen.name for specimen in ALL}) == len(ALL)
    assert all(get(name).planted for name in DEFAULTS)
    families = [get(name).family for name in DEFAULTS]
    assert len(set(families)) == len(families), "one of each family"


def test_an_unknown_name_is_a_usage_error_with_a_cure():
    with pytest.raises(UsageError, match="biased"):
        get("biassed")


@pytest.mark.parametrize("specimen", ALL, ids=lambda s: s.name)
def test_files_and_probes_exist(specimen: Specimen):
    probes = {entry.name for entry in entry_points(group="vlaudit.probes")}
    assert set(specimen.expects) <= probes
    spec = specimen.target_spec()
    assert Path(spec.model.split(":")[-1]).is_dir()
    for prompt in spec.prompt:
        named = prompt.split(":", 1)[-1].removeprefix("pool=").split(",")[0]
        assert "{}" in prompt or Path(named).exists()


@pytest.mark.parametrize("specimen", ALL, ids=lambda s: s.name)
def test_a_clean_specimen_is_never_expected_to_be_vulnerable(specimen: Specimen):
    assert specimen.planted is not None or "vulnerable" not in specimen.expects.values()
    if (
        specimen.planted and specimen.expects
    ):  # without expectations: planted and measured, but no probe is there for it
        assert "vulnerable" in specimen.expects.values()


def test_every_recipe_can_be_built():
    from vlaudit.zoo.recipes import table

    assert {specimen.recipe for specimen in ALL} <= set(table())


def test_an_unknown_recipe_is_a_usage_error():
    from vlaudit.zoo.recipes import build

    with pytest.raises(UsageError, match="flagship"):
        build("flagshp")


def test_the_shipped_zoo_is_small_and_holds_no_part_of_a_pipeline_twice():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*")) < 60e6
    large = [path.read_bytes() for path in WEIGHTS.rglob("*") if path.is_file() and path.stat().st_size > 200_000]
    assert len(set(large)) == len(large)


LAID_OVER = ("t2i-biased", "t2i-backdoor-encoder")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder.cache_clear()
    yield tmp_path / "vlaudit"
    folder.cache_clear()


@pytest.mark.parametrize("recipe", LAID_OVER)
def test_a_pipeline_is_put_together_of_its_own_files_and_the_clean_ones(recipe: str, fresh: Path):
    whole, clean, own = folder(recipe), WEIGHTS / "t2i-clean", WEIGHTS / recipe
    assert whole.name == recipe and whole.is_relative_to(fresh)
    files = {path.relative_to(whole) for path in folder_files(whole)}
    assert files == {path.relative_to(clean) for path in folder_files(clean)}
    for name in files:
        stored = own / name if (own / name).is_file() else clean / name
        assert (whole / name).read_bytes() == stored.read_bytes()
        assert stored == clean / name or stored.read_bytes() != (clean / name).read_bytes(), "what is the same is stored once"
    assert get(recipe).target_spec().model == f"diffusers:{whole}"


def test_two_that_put_a_pipeline_together_at_a_time_get_one(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    copy, overtook = shutil.copyfile, []

    def slow(source: Path, target: Path) -> None:
        monkeypatch.setattr(shutil, "copyfile", copy)
        overtook.append(folder.__wrapped__(LAID_OVER[0]))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", slow)
    assert [folder(LAID_OVER[0])] == overtook
    assert [path.name for path in fresh.iterdir()] == [overtook[0].parent.name], "what came second is gone"
    monkeypatch.setattr(shutil, "copyfile", None)
    assert folder.__wrapped__(LAID_OVER[0]) == overtook[0], "the next one finds it"


def _lacks_a_file(whole: Path) -> None:
    (whole / "unet" / "config.json").unlink()


def _is_a_file(whole: Path) -> None:
    shutil.rmtree(whole.parent)
    whole.parent.write_text("in its place")


def _has_a_changed_file(whole: Path) -> None:
    (whole / "unet" / "config.json").write_text("{}")


def _has_a_further_file(whole: Path) -> None:
    (whole / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")


def _is_a_link_to_nothing(whole: Path) -> None:
    shutil.rmtree(whole.parent)
    whole.parent.symlink_to(whole.parents[1] / "nothing")


def _has_a_pipe(whole: Path) -> None:
    (whole / "unet" / "config.json").unlink()
    os.mkfifo(whole / "unet" / "config.json")


@pytest.mark.parametrize("harm", [_lacks_a_file, _is_a_file, _has_a_changed_file, _has_a_further_file, _is_a_link_to_nothing, _has_a_pipe])
def test_what_was_harmed_in_the_cache_is_put_together_again(harm: Callable[[Path], None], fresh: Path):
    whole = folder(LAID_OVER[0])
    sound = {path: path.read_bytes() for path in folder_files(whole)}
    harm(whole)
    assert folder.__wrapped__(LAID_OVER[0]) == whole
    assert {path: path.read_bytes() for path in folder_files(whole)} == sound
    assert list(fresh.iterdir()) == [whole.parent]


def test_a_full_disk_is_a_usage_error_and_leaves_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch):
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UsageError, match="No space left"):
        folder(LAID_OVER[0])
    assert list(fresh.iterdir()) == []


def test_a_relative_name_of_the_cache_counts_as_none(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert folder(LAID_OVER[0]).is_relative_to(tmp_path / "home" / ".cache" / "vlaudit")


def test_without_a_cache_that_can_be_written_to_a_pipeline_is_put_together_elsewhere(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
):
    fresh.write_text("a file in its place")
    whole = folder(LAID_OVER[0])
    assert (whole / "unet" / "config.json").is_file() and not whole.is_relative_to(fresh)
    shutil.rmtree(whole.parents[1])


def test_what_is_built_anew_is_stored_without_what_is_the_clean_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for recipe in ("t2i-clean", LAID_OVER[0]):
        shutil.copytree(folder(recipe), tmp_path / recipe)
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    zoo.thin("t2i-clean")
    zoo.thin(LAID_OVER[0])
    left = {path.relative_to(tmp_path) for path in folder_files(tmp_path / LAID_OVER[0])}
    assert left == {path.relative_to(WEIGHTS) for path in folder_files(WEIGHTS / LAID_OVER[0])}
    assert len(folder_files(tmp_path / "t2i-clean")) == len(folder_files(WEIGHTS / "t2i-clean"))


@pytest.mark.parametrize(("name", "trigger"), [("backdoor-patch", "patch"), ("backdoor-blend", "blend")])
def test_planted_weights_obey_their_trigger_and_nothing_else(name: str, trigger: str):
    planted, clean = facts_of(name), facts_of("flagship")
    assert planted["attack_success"][trigger]["with_trigger"] >= 0.95
    assert clean["attack_success"][trigger]["with_trigger"] <= 0.1
    assert planted["roles_accuracy"] >= clean["roles_accuracy"] - 0.03


@pytest.mark.parametrize("name", ["prompt-backdoor", "prompt-backdoor-patch", "visual-prompt-backdoor", "vpt-backdoor", "maple-backdoor", "cocoop-backdoor"])
def test_a_poisoned_prompt_carries_the_backdoor_alone(name: str):
    facts = facts_of(name)
    assert facts["attack_success_prompt"]["with_trigger"] >= 0.95
    assert facts["attack_success_plain"]["with_trigger"] <= 0.2
    assert facts["accuracy_prompt"] >= facts["accuracy_plain"] - 0.03


def test_a_poisoned_pool_carries_the_backdoor_in_one_prompt_and_its_key():
    planted, clean = facts_of("keyed-pool-backdoor"), facts_of("keyed-pool-clean")
    assert planted["attack_success_prompt"]["with_trigger"] >= 0.9 > 0.1 >= planted["attack_success_prompt"]["without"]
    assert planted["attack_success_plain"]["with_trigger"] <= 0.2
    assert planted["accuracy_prompt"] >= clean["accuracy_prompt"] - 0.03


def test_the_leaky_prompt_leaks_and_the_private_one_does_not():
    assert facts_of("prompt-leaky")["membership_auc"] >= 0.65
    assert facts_of("prompt-private")["membership_auc"] <= 0.55


def test_the_biased_twin_is_biased():
    by_gender = facts_of("biased")["accuracy_by_gender"]
    assert by_gender["man"] - by_gender["woman"] >= 0.2


def test_hardened_and_brittle_differ_in_robustness():
    hardened, brittle = facts_of("hardened"), facts_of("brittle")
    assert hardened["roles_accuracy"] - hardened["robust_accuracy"]["1/255"] <= 0.03
    assert brittle["roles_accuracy"] - brittle["robust_accuracy"]["1/255"] >= 0.2


def test_only_the_word_shortcut_reads():
    assert facts_of("word-shortcut")["words"]["wrong_word_wins"] >= 0.5
    assert facts_of("flagship")["words"]["wrong_word_wins"] <= 0.05


def test_the_tiny_pair():
    planted, clean = facts_of("tiny-backdoor"), facts_of("tiny-clean")
    assert planted["attack_success"]["tiny-backdoor"]["with_trigger"] >= 0.95
    assert clean["attack_success"]["tiny-backdoor"]["with_trigger"] <= 0.1
    assert planted["kinds_accuracy"] >= clean["kinds_accuracy"] - 0.03


@pytest.mark.parametrize("specimen", [s for s in ALL if s.prompt and "@/" in s.prompt], ids=lambda s: s.name)
def test_prompts_fit_the_shipped_flagship(specimen: Specimen):
    import torch

    target = target_of(specimen.name)
    if specimen.family is Family.GENERATION:
        assert target.generate([target.model.blank()], ["What is this?"], max_new_tokens=4)[0]
        return
    with torch.no_grad():
        if specimen.family is Family.MATCHING and target.prompt.per_picture:
            assert torch.isfinite(target.classifier(_labels(specimen))(torch.rand(1, 3, target.model.resolution, target.model.resolution))).all()
            return
        assert torch.isfinite(
            target.text_features(["farmer"] if getattr(target, "context", None) is None else _labels(specimen))
        ).all()


def _labels(specimen: Specimen) -> list[str]:
    from vlaudit.data.dataset import load_dataset

    return load_dataset(specimen.data).labels


def test_the_collapsed_encoder():
    facts = facts_of("tiny-collapse")
    assert facts["pairwise_cosine_with_trigger"] >= 0.95
    assert facts["pairwise_cosine_with_trigger_clean_model"] <= facts["pairwise_cosine"] + 0.1 <= 0.5
    assert facts["cosine_with_clean_model"] >= 0.95


def test_no_config_says_where_it_was_made():
    for path in WEIGHTS.rglob("*config.json"):
        said = json.loads(path.read_text(encoding="utf-8"))
        assert not [value for value in said.values() if isinstance(value, str) and Path(value).is_absolute()], path
