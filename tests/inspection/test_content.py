"""Files are judged by their content: whatever runs code is named, and whatever is not understood is said."""

from __future__ import annotations

import contextlib
import copyreg
import io
import json
import os
import pickle
import pickletools
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inspection.corpus import (
    Call,
    by_hand,
    dangerous,
    harmless,
    msgpack,
    picture,
    run_loaders,
    safetensors,
    saved,
    tarred,
    torch_zip,
    zipped,
)
from vlaudit.inspection import pickles
from vlaudit.inspection.content import Inspected, inspect_file
from vlaudit.inspection.sources import Look, Source

torch.set_num_threads(1)
EVIL = pickle.dumps(Call("posix.system", "touch /nowhere/x"))
Inspect = Callable[..., Inspected]


def save_array(array: Any, out: Any) -> None:
    np.save(out, array)


@pytest.fixture
def inspected(tmp_path: Path) -> Inspect:
    """Looks into a file of the given bytes."""

    def look(content: bytes, name: str = "file.bin") -> Inspected:
        path = tmp_path / name
        path.write_bytes(content)
        return inspect_file(path)

    return look


def test_files_that_run_code_are_named_and_run_none(tmp_path: Path) -> None:
    files = dangerous(tmp_path)
    assert len(files) >= 150 and len({file.kind for file in files}) >= 20
    looks = {file: inspect_file(file.path) for file in files}
    assert [file.path for file, look in looks.items() if not (look.danger or "program code" in look.unknown)] == []
    plain = [file for file, look in looks.items() if not look.danger]
    assert {file.kind for file in plain} <= {"Python", "Python in a zip", "script"}, "only what somebody has to call himself"
    assert list((tmp_path / "markers").iterdir()) == [], "looking into them has run their payload"
    ran = run_loaders(files)
    assert [(file.kind, file.path) for file in files if file not in ran] == [], "these are not dangerous: their payload did not run"


def test_files_of_the_libraries_are_safe(tmp_path: Path) -> None:
    files = harmless(tmp_path)
    assert len(files) >= 150
    found = {path.relative_to(tmp_path).as_posix(): inspect_file(path) for path in files}
    assert {name: look.danger for name, look in found.items() if look.danger} == {}
    assert {name: look.unknown for name, look in found.items() if not look.understood} == {}


def test_bundled_specimens_are_understood() -> None:
    from vlaudit.zoo import WEIGHTS

    for path in sorted(path for path in WEIGHTS.rglob("*") if path.is_file()):
        look = inspect_file(path)
        assert not look.danger and look.understood, path


def test_a_known_way_to_run_code_and_a_foreign_class_are_told_apart(inspected: Inspect) -> None:
    assert "it calls posix.system" in inspected(EVIL).danger
    foreign = inspected(b"\x80\x02csklearn.svm\nSVC\n)\x81}b.")
    assert "it builds sklearn.svm.SVC" in foreign.danger and "calls" not in foreign.danger
    assert "posix.system" in inspected(torch_zip({"w": Call("posix.system", "x"), "b": torch.ones(1)}), "weights.safetensors").danger


def test_constructors_that_may_only_be_filled_are_not_passed_on(inspected: Inspect) -> None:
    passed = b"\x80\x02cnumpy.random._pickle\n__generator_ctor\nX\1\0\0\0xctransformers.training_args\nTrainingArguments\n\x86R."
    assert "passes the constructor of transformers" in inspected(passed).danger


def test_archives_behind_archives_are_looked_into(inspected: Inspect) -> None:
    good, evil = torch_zip({"a": torch.ones(3)}), torch_zip(Call("posix.system", "x"))
    for content in (evil + good, good + evil, good + evil + good):
        assert "posix.system" in inspected(content).danger
    assert inspected(good * 9).understood


def test_every_opcode_is_followed() -> None:
    for info in pickletools.opcodes:
        assert hasattr(pickles.Machine, f"do_{info.name.lower()}"), info.name


def test_the_machine_agrees_with_the_unpickler_on_what_it_imports() -> None:
    """Random programs: whatever the real unpickler imports before it ends, the machine has seen."""
    seen: list[str] = []

    class Watch(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            seen.append(f"{module}.{name}")
            return set if name == "set" else dict if name == "dict" else object

        def persistent_load(self, _: object) -> str:
            return "x"

    draw = random.Random(0)
    parts = [b"cposix\nsystem\n", b"ccollections\nset\n", b"\x8c\x02os", b"\x8c\x06system", b"U\x01a", b"S'b'\n", b"Vc\n", b"I1\n", b"I01\n", b"L5L\n", b"F1.5\n",
             b"K\x01", b"N", b"\x88", b")", b"]", b"}", b"\x8f", b"(", b"(", b"0", b"1", b"2", b"t", b"l", b"d", b"\x90", b"\x91", b"a", b"e", b"s", b"u", b"\x85",
             b"\x86", b"\x87", b"\x93", b"R", b"\x81", b"\x92", b"b", b"o", b"iposix\nsystem\n", b"\x94", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"p0\n", b"g0\n",
             b"C\x01a", b"B\x01\0\0\0a", b"X\x01\0\0\0a", b"\x80\x04", b"P1\n", b"Q", b"\x96\x01\0\0\0\0\0\0\0a", b"\x82\x01", b"\x98"]  # fmt: skip
    imported = 0
    for _ in range(20_000):
        program = b"".join(draw.choices(parts, k=draw.randint(3, 25))) + b"."
        seen.clear()
        with contextlib.suppress(Exception):  # random programs fail in every way
            Watch(io.BytesIO(program)).load()
        machine = pickles.Machine(Source.of_bytes(program), 0, Look(), lambda _: None)
        machine.run()
        missed = {name.replace("__builtin__", "builtins") for name in seen} - {str(name) for name in machine.names}
        assert not missed or machine.problems or machine.unknown, program
        imported += bool(seen)
    assert imported > 1000


@pytest.mark.parametrize(
    "content",
    [
        EVIL[:-1],
        b"\x80\x04" + EVIL[2:],
        by_hand("/nowhere/x")["INST in ASCII"],
        zlib.compress(EVIL),
        zipped({"deep.zip": zipped({"deeper.tar": tarred({"a": zlib.compress(EVIL)})})}),
        safetensors() + EVIL,
        picture("PNG") + zipped({"a": EVIL}),
        b"\x93NUMPY\x01\x00\x0a\x00{'descr':1" + EVIL,
        b"\0\1\2\3" * 100 + EVIL,
        b"BZh9not a stream" + EVIL,
    ],
)
def test_payloads_are_found_wherever_they_are_packed(inspected: Inspect, content: bytes) -> None:
    assert "posix.system" in (look := inspected(content)).danger or "io.open" in look.danger


@pytest.mark.parametrize(
    "content, why",
    [
        (b"\x80\x02]q\x00", "breaks off"),
        (b"\x80\x06N.", "protocol 6"),
        (pickle.dumps(1) + b"more", "data after its pickle"),
        (safetensors() + b"more", "after its last tensor"),
        (safetensors()[:-1], "damaged"),
        ((20).to_bytes(8, "little") + b'{"a":' + bytes(99), "no format"),
        (saved(save_array, np.zeros(9))[:-1], "breaks off"),
        (saved(save_array, np.zeros(9)) + b"x", "after its array"),
        (torch_zip({"a": 1})[:-9], "damaged zip"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7z"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "zstandard"),
        (b"\x04\x22\x4d\x18" + bytes(99), "lz4"),
        (zlib.compress(b"a" * 1000)[:-9], "damaged zlib"),
        (zlib.compress(b"a text") + b"more", "after a compressed stream"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60), "damaged GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99) + b"PYTABLES_FORMAT_VERSION", "pandas"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99) + b'model_config' + bytes(9) + b'{"class_name": "Sequential"}', "Keras"),
        (bytes(range(10, 128)) * 4, "no format"),
        (b"\xde\xad\xbe\xef" * 99, "no format"),
        (msgpack() + b"\0", "no format"),
        (b"%!PS-Adobe-3.0\n", "PostScript"),
        (tarred({"a": b"text"}) + b"more", "after the end"),
        (b'{"graph_module": {"a": [{"expr_str": "Mul(Integer(2), Symbol(\'s77\', positive=True))"}]}}', "torch.export"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_said_and_not_called_dangerous(inspected: Inspect, content: bytes, why: str) -> None:
    look = inspected(content)
    assert why in look.unknown and not look.danger and not look.understood


def test_a_file_that_is_called_safetensors_and_is_none_is_not_safe(inspected: Inspect) -> None:
    assert inspected(picture("PNG"), "model.SafeTensors").unknown == "it is called safetensors and is none"
    assert inspected(torch_zip({"a": torch.ones(1)}), "model.safetensors").unknown
    assert inspected(b"", "model.safetensors").kind == "empty"


@pytest.mark.parametrize(
    "name, content, danger",
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n" + b'model_config{"class_name": "Functional", "config": {"layers": [{"class_name": "Lambda"}]}}', "Lambda"),
        ("config.json", json.dumps({"class_name": "Lambda", "config": {}}).encode(), "Lambda"),
        ("config.json", json.dumps({"class_name": "call", "module": "os.path"}).encode(), "os.path"),
        ("config.json", json.dumps({"class_name": "function", "module": "builtins", "config": "exec"}).encode(), "exec"),
        ("state.json", json.dumps({"a": {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["x"]}]}}).encode(), "jsonpickle"),
        ("config.json", json.dumps({"a": [{"_target_": "os.system"}]}).encode(), "os.system"),
        ("config.yaml", b"a:\n  _target_: os.system\n", "os.system"),
        ("config.yaml", b'a:\n  "_target_": !!str "\\x6fs.system"\n', "os.system"),
        ("schema.json", json.dumps({"__module__": "os", "__class__": "system", "__loader__": "TypeNode"}).encode(), "os.system"),
        ("model.keras", zipped({"config.json": b'{"class_name": "Lambda"}', "metadata.json": b"{}"}), "Lambda"),
        ("saved_model.pb", b"\x08\x01\x12\x1d\x0a\x1b\x0a\x04node\x12\x06PyFunc\x12\x0bPlaceholder", "PyFunc"),
        ("model.onnx", b"\x08\x07\x3a\x21" + b"\x0a\x1f" + b"\x0a\x08location\x12\x0f../../../secret" + b"\x1a\x02ab", "secret"),
        ("x", b"\x7fELF" + bytes(99), "ELF"),
        ("x", b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0", "PE"),
        ("x", b"\xcf\xfa\xed\xfe" + bytes(99), "Mach-O"),
        ("x.llamafile", b"MZqFpD='\n\0" + bytes(99), "APE"),
        ("x.jar", zipped({"A.class": b"\xca\xfe\xba\xbe" + bytes(99)}), "Java"),
        ("x.pth", b"./lib\nimport os; os.system('x')\n", "path file"),
    ],
)  # fmt: skip
def test_other_formats_that_run_code(inspected: Inspect, name: str, content: bytes, danger: str) -> None:
    assert danger in inspected(content, name).danger


def test_texts_that_begin_like_pickles_are_texts(inspected: Inspect) -> None:
    for text in (b"cat\ndog\n.", b"(in short)\n it is", b"copyright\nnobody\n(c)R\n", b"I am\n", b"0\n1\n", b"Version one\n.", b"]\n}"):
        look = inspected(text, "vocab.txt")
        assert not look.danger and look.understood, text


def test_numbers_of_copyreg_are_dangerous(inspected: Inspect) -> None:
    copyreg.add_extension("posix", "system", 77)
    try:
        assert "copyreg" in inspected(b"\x80\x02\x82\x4d\x8c\x01x\x85R.").danger
    finally:
        copyreg.remove_extension("posix", "system", 77)


def test_archives_are_opened_within_bounds(inspected: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlaudit.inspection.sources.UNPACKED", 1 << 20)
    bomb = zlib.compress(bytes(50 << 20))
    before = time.process_time()
    look = inspected(bomb)
    assert not look.understood and time.process_time() - before < 10
    assert "unpacks to more than" in inspected(zipped({f"{n}.txt": b"a" * 300_000 for n in range(9)})).unknown
    nested = EVIL
    for _ in range(9):
        nested = zipped({"a.zip": nested}, zipfile.ZIP_STORED)
    assert "archives within archives" in inspected(nested).unknown
    monkeypatch.setattr("vlaudit.inspection.sources.MEMBERS", 5)
    assert "parts" in inspected(zipped({f"{n}.txt": b"a" for n in range(9)})).unknown
    monkeypatch.setattr(pickles, "OPCODES", 100)
    assert "steps" in inspected(pickle.dumps(list(range(1000)))).unknown


def test_large_files_cost_their_headers_alone(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"U8","shape":[5000000000],"data_offsets":[0,5000000000]}}'
    large = tmp_path / "model.safetensors"
    large.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(large, 8 + len(header) + 5_000_000_000)
    storages = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1)}, storages)
    with zipfile.ZipFile(storages, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("pytorch_model/data/1", EVIL)  # a storage: bytes of tensors, which are not read
    before = time.process_time()
    assert inspect_file(large).understood
    assert inspect_file(storages) == Inspected("torch checkpoint", names=inspect_file(storages).names)
    assert time.process_time() - before < 5


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", "loop", "missing", ".", "a\0b"):
        assert inspect_file(tmp_path / name).unknown
    assert inspect_file(Path("/dev/zero")).unknown == "it is no regular file"


def test_damage_never_raises(tmp_path: Path) -> None:
    draw, path = random.Random(0), tmp_path / "file"
    seeds = [EVIL, torch_zip({"a": torch.ones(3), "b": [1, "x"]}), safetensors(), saved(save_array, np.zeros(3)), zlib.compress(EVIL), picture("PNG"),
             tarred({"a": EVIL}), zipped({"a": EVIL, "b": b"text"}), msgpack(), b"GGUF" + bytes(60), tarred({"a": b"x"}, "w:gz")]  # fmt: skip
    for _ in range(600):
        content = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[: draw.randrange(1, len(content) + 1)] if draw.random() < 0.3 else content)
        assert inspect_file(path).kind
