"""Data sets of the package datasets, with the real library, offline: what it saved, parquet, pictures; and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlaudit.config import read_config
from vlaudit.data import hub
from vlaudit.data.dataset import Dataset, is_remote, load_dataset
from vlaudit.data.images import DataError
from vlaudit.errors import UsageError
from vlaudit.prompts.pool import load_pool

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 7, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(count: int = 6, first: int = 0, **more: list[Any]) -> Any:
    features = {
        "img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"]), "gender": datasets.Value("string"),
        "age": datasets.Value("int64"), "seen": datasets.Value("bool"), "vector": datasets.List(datasets.List(datasets.Value("float32"))),
    }  # fmt: skip
    rows = range(first, first + count)
    content = {
        "img": [{"bytes": png(n), "path": f"{n}.png"} for n in rows], "kind": [n % 2 for n in rows], "gender": ["man" if n % 3 else "woman" for n in rows],
        "age": list(rows), "seen": [n % 2 == 0 for n in rows], "vector": [[[0.5]]] * count,
    }  # fmt: skip
    return datasets.Dataset.from_dict(content, features=datasets.Features(features)) if not more else datasets.Dataset.from_dict(content | more)


def load(source: object, **options: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_dataset(str(source), **options)


def check_all(data: Dataset, count: int) -> None:
    assert len(data) == count and data.labels == ["cat", "dog"]
    for number, example in enumerate(data.examples):
        pixels = np.asarray(example.open())
        assert pixels.shape == (9, 7, 3) and (pixels == number).all()
        assert example.label == ["cat", "dog"][number % 2] and example.attributes["age"] == str(number)
        assert example.sha256() == hashlib.sha256(png(number)).hexdigest() and example.size == len(png(number))


def test_a_saved_dataset_is_read_with_its_columns(tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path / "saved"))
    data = load(f"hf:{tmp_path / 'saved'}", groups=["gender"], members="seen")
    check_all(data, 6)
    assert [e.member for e in data.examples] == [True, False] * 3 and data.has_members
    assert any("not read: vector" in note for note in data.notes)
    assert data.sha256 == load(f"hf:{tmp_path / 'saved'}").sha256 or data.sha256  # a fingerprint of what it holds
    assert load(f"hf:{tmp_path / 'saved'}", columns={"label": "gender", "who": "kind"}).labels == ["man", "woman"]


def test_splits_are_kept_and_can_be_named_and_cut(tmp_path: Path) -> None:
    datasets.DatasetDict(train=table(4), test=table(2, 4)).save_to_disk(str(tmp_path / "both"))
    data = load(f"hf:{tmp_path / 'both'}", members="train")
    assert [e.split for e in data.examples] == ["train"] * 4 + ["test"] * 2 and len(data.audit) == 2
    assert [e.attributes["age"] for e in load(f"hf:{tmp_path / 'both'}:test").examples] == ["4", "5"]
    assert [e.attributes["age"] for e in load(f"hf:{tmp_path / 'both'}:train[1:3]").examples] == ["1", "2"]
    for wrong in ("validation", "train[a]", "tr ain"):
        with pytest.raises(DataError):
            load(f"hf:{tmp_path / 'both'}:{wrong}")


def test_parquet_files_are_read_whole_by_split_and_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    table().to_parquet(str(tmp_path / "data" / "part.parquet"))
    check_all(load(f"hf:{tmp_path / 'data'}"), 6)
    check_all(load(f"hf:{tmp_path / 'data' / 'part.parquet'}"), 6)
    check_all(load(f"hf:{tmp_path / 'data'}:train[:4]"), 4)
    (tmp_path / "data" / "part.parquet").unlink()
    table(4).to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    table(2, 4).to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    assert [e.split for e in load(f"hf:{tmp_path / 'data'}").examples] == ["train"] * 4 + ["test"] * 2
    assert len(load(f"hf:{tmp_path / 'data'}:test")) == 2


def test_tables_of_other_programs_hold_bare_bytes(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"image": [png(0), png(1)], "label": ["cat", "dog"], "caption": ["a cat", "a dog"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    data = load(f"hf:{tmp_path / 'x.parquet'}", columns={"text": "caption"})
    assert data.captions == ("a cat", "a dog") and (np.asarray(data.examples[1].open()) == 1).all()


def test_pictures_in_folders_are_read_as_without_the_prefix(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.png").write_bytes(png(3))
    assert [e.id for e in load(f"hf:{tmp_path / 'data'}").examples] == ["cat/1.png", "dog/1.png"]


def test_questions_answers_and_choices_of_lists(tmp_path: Path) -> None:
    rows = {"image": [{"bytes": png(0), "path": None}] * 2, "q": ["what ?", "who ?"], "options": [["a", "b"], ["c", "d"]], "right": [1, 0],
            "refs": [["x", "y"], ["z"]]}  # fmt: skip
    features = datasets.Features({"image": datasets.Image(), "q": datasets.Value("string"), "options": datasets.List(datasets.Value("string")),
                                  "right": datasets.Value("int64"), "refs": datasets.List(datasets.Value("string"))})  # fmt: skip
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "qa"))
    data = load(f"hf:{tmp_path / 'qa'}", columns={"question": "q", "choices": "options", "answer": "right"})
    assert [(e.question, e.answer, e.choices) for e in data.examples] == [("what ?", "b", ["a", "b"]), ("who ?", "c", ["c", "d"])]
    data = load(f"hf:{tmp_path / 'qa'}", columns={"question": "q", "answer": "refs"})
    assert [e.answer for e in data.examples] == ["x", "z"] and any("the first entry is taken" in note for note in data.notes)


@pytest.mark.parametrize("change, said", [
    ({"columns": {"label": "knid"}}, "no column 'knid'.*Did you mean 'kind'"),
    ({"columns": {"image": "age"}}, "cannot be loaded|no picture"),
    ({"columns": {"label": "age"}}, "numbers without names"),
])  # fmt: skip
def test_columns_that_do_not_fit_are_one_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    table().save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=said):
        load(f"hf:{tmp_path / 'saved'}", **change)


def test_rows_without_pictures_or_with_foreign_ones_are_counted(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    (tmp_path / "saved").mkdir()
    rows = [{"bytes": png(0), "path": None}, {"bytes": None, "path": str(secret)}, {"bytes": None, "path": "../secret.png"}, None,
            {"bytes": None, "path": "https://example.org/1.png"}, {"bytes": b"<html></html>", "path": None}]  # fmt: skip
    held = datasets.Dataset.from_dict({"image": rows, "label": ["cat"] * 6}, features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}))
    pq.write_table(held.data.table, tmp_path / "saved" / "x.parquet")
    data = load(f"hf:{tmp_path / 'saved'}")
    assert len(data) == 1
    assert any("4 rows" in note and "3 whose picture lies elsewhere" in note and "1 without a picture" in note for note in data.notes)
    assert any("1 text of a server" in note for note in data.notes)


def test_unlabelled_rows_and_no_pictures_are_errors(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png(0), "path": None}] * 2, "label": [0, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "half"))
    with pytest.raises(DataError, match=r"1 of 2 rows .* have no label"):
        load(f"hf:{tmp_path / 'half'}")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(DataError, match="no column of pictures"):
        load(f"hf:{tmp_path / 'texts'}")


def test_damaged_and_hostile_folders_are_one_sentence(tmp_path: Path) -> None:
    table().save_to_disk(str(tmp_path / "saved"))
    state = tmp_path / "saved" / "state.json"
    good = state.read_text()
    for content in ("[]", "{", json.dumps(json.loads(good) | {"_data_files": [{"filename": "../saved/data-00000-of-00001.arrow"}]}), json.dumps({"_data_files": 3})):
        state.write_text(content)
        with pytest.raises(DataError):
            load(f"hf:{tmp_path / 'saved'}")
    state.write_text(good)
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be loaded"):
        load(f"hf:{tmp_path / 'saved'}")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code.py").write_text("raise SystemExit")
    for missing in (tmp_path / "code", tmp_path / "nowhere", "./nowhere", "~/nowhere/x"):
        with pytest.raises(DataError):
            load(f"hf:{missing}")


def test_the_hub_is_asked_only_where_a_user_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vlaudit: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_remote("hf:org/name") and is_remote("hf:org/name@v1:train") and not is_remote("zoo:kinds") and not is_remote("wds:x.tar")
    table().save_to_disk("saved")
    assert not is_remote("hf:saved") and not is_remote("hf:saved:train")
    with pytest.raises(UsageError, match="not on this disk"):
        load_pool("hf:org/name")
    for wrong in ("hf:", "hf:a b", "hf:org/name:", "hf:org/name@:train", "hf:org/name:tr ain"):
        with pytest.raises(DataError):
            load(wrong)
    with pytest.raises(DataError, match=r"cannot be loaded.*network"):
        load("hf:org/name")  # the tests are offline
    Path("vlaudit.toml").write_text('[[target]]\nmodel = "zoo:tiny-clean"\ndata = "hf:org/name"\n')
    assert vlaudit("scan", "--dry-run") == 2


def test_a_data_set_of_the_hub_is_built_by_known_builders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own builder object, with the network's part replaced."""
    asked: list[Any] = []

    class Builder:
        __module__ = "datasets.packaged_modules.parquet.parquet"
        info = datasets.DatasetInfo(download_checksums={f"hf://datasets/org/name@{'a' * 40}/x.parquet": {}})

        def download_and_prepare(self) -> None:
            asked.append("prepared")

        def as_dataset(self, split: str | None = None) -> Any:
            return table() if split else {"train": table(4), "test": table(2, 4)}

    def builder(name: str, config: str | None, revision: str | None) -> Builder:
        asked.append((name, config, revision))
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    data = load("hf:org/name@v1.0:small/train[:6]")
    check_all(data, 6)
    assert asked == [("org/name", "small", "v1.0"), "prepared"]
    assert f"is at commit {'a' * 40}" in data.notes[0]
    assert [e.split for e in load("hf:org/name").examples] == ["train"] * 4 + ["test"] * 2
    Builder.__module__ = "datasets_modules.org.name"
    with pytest.raises(DataError, match="not opened"):
        load("hf:org/name")
    Builder.__module__ = "datasets.packaged_modules.parquet.parquet"
    monkeypatch.setattr(hub, "MAX_ROWS", 3)
    Builder.info = datasets.DatasetInfo(splits=datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=9)}))
    with pytest.raises(DataError, match="9 rows"):
        load("hf:org/name")


def test_paths_of_a_config_lie_beside_it_and_inside_where_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table().save_to_disk(str(tmp_path / "in" / "saved"))
    table().save_to_disk(str(tmp_path / "out"))
    for named, wanted in (("hf:saved", f"hf:{tmp_path}/in/saved"), ("hf:saved:train", f"hf:{tmp_path}/in/saved:train"),
                          ("wds:s/{0..1}.tar", f"wds:{tmp_path}/in/s/{{0..1}}.tar"), ("hf:org/name@v:train", "hf:org/name@v:train")):  # fmt: skip
        (tmp_path / "in" / "vlaudit.toml").write_text(f'[[target]]\nmodel = "zoo:x"\ndata = "{named}"\ncolumns = {{ label = "kind" }}\n')
        (target,) = read_config(tmp_path / "in" / "vlaudit.toml", trusted=False).target
        assert target.data == wanted and target.columns == {"label": "kind"}
    for named in ("hf:../out", "hf:../out:train", "wds:../x.tar", f"hf:{tmp_path}/out"):
        (tmp_path / "in" / "vlaudit.toml").write_text(f'[[target]]\nmodel = "zoo:x"\ndata = "{named}"\n')
        with pytest.raises(UsageError, match="outside its folder"):
            read_config(tmp_path / "in" / "vlaudit.toml", trusted=False)


def test_a_scan_of_a_saved_dataset(tmp_path: Path, vlaudit: Any, tiny_clip: Path) -> None:
    table(12).save_to_disk(str(tmp_path / "saved"))
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags = ("--data", f"hf:{tmp_path / 'saved'}", "--columns", "label=kind", "--group", "gender", "--probe", ["unsafe-file", "group-performance"][0])
        assert vlaudit("scan", f"hf:{tiny_clip}", *flags, "--out", out) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["targets"][0]["data"]["examples"] == 12
    assert "--columns label=kind" in report["findings"][0]["reproduce"]
