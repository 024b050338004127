"""Bad input: one sentence with the cure, the right exit code, no traceback, nothing lost."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlaudit.errors import VlauditWarning

Command = Callable[..., int]


@pytest.fixture
def data(picture_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(picture_folder / "test", folder)
    return folder


@pytest.fixture
def scan(
    tiny_clip: Path, mirror_plugin: Path, vlaudit: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable:
    """Scan with the mirror probe; returns the exit code and what was printed as an error."""

    def call(
        data: Path, *flags: object, model: Path | str = tiny_clip, out: Path = tmp_path / "out"
    ) -> tuple[int, str]:
        code = vlaudit(
            "scan", f"hf:{model}", "--data", data, "--plugin", mirror_plugin, "--probe", "mirror", "--out", out, *flags
        )
        output = capsys.readouterr()
        assert "Traceback" not in output.err + output.out
        return code, output.err

    return call


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 black pixels in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = 60_000
    header = struct.pack(">IIBBBBB", size, size, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_pictures_that_cannot_be_read_are_said(scan: Callable, data: Path, tmp_path: Path) -> None:
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")
    for name, content in {
        "corrupt": b"not a picture",
        "bomb": bomb(),
        "truncated": None,
        "pixel": pixel.getvalue(),
    }.items():
        folder = tmp_path / name
        shutil.copytree(data, folder)
        path = folder / "cat" / "0.png"
        path.write_bytes(path.read_bytes()[:300] if content is None else content)
        with pytest.warns(VlauditWarning, match=r"1 picture in .* cannot be read and is left out: 1 .*\(such as 'cat/0\.png'\)"):
            code, error = scan(folder, out=tmp_path / f"out-{name}")
        assert code == 0, (name, code, error)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "I;16", "1"])
def test_odd_pictures_are_read(scan: Callable, data: Path, mode: str) -> None:
    image = (
        Image.fromarray(np.full((9, 5), 40_000, np.uint16))
        if mode == "I;16"
        else Image.new("RGB", (9, 5), "red").convert(mode)
    )
    image.save(data / "cat" / ("odd.tiff" if mode in ("CMYK", "I;16") else "odd.png"))
    code, error = scan(data)
    assert code in (0, 1), error


def test_empty_class_folder_and_missing_data(scan: Callable, data: Path, tmp_path: Path) -> None:
    (data / "bird").mkdir()
    code, error = scan(data)
    assert code == 2 and "bird" in error
    code, error = scan(tmp_path / "nowhere")
    assert code == 2 and "does not exist" in error
    (tmp_path / "void").mkdir()
    assert scan(tmp_path / "void")[0] == 2


def test_html_in_a_label_never_reaches_a_report_unescaped(scan: Callable, data: Path, tmp_path: Path) -> None:
    (data / "cat").rename(data / "<script>alert(1)<")
    code, _ = scan(data)
    assert code == 2 or "<script>alert" not in (tmp_path / "out" / "report.html").read_text()


def test_model_that_yields_nan(scan: Callable, data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(tiny_clip, folder)
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] = torch.full_like(weights["visual_projection.weight"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert scan(data, "--dry-run", model=folder)[0] == 4
    code, _ = scan(data, model=folder)
    assert code == 4
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["findings"][0]["verdict"] == "not-assessed" and "NaN" in report["findings"][0]["reason"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--prompt", "a photo"], "not a prompt"),
        (["--prompt", "coup:x.safetensors"], "Did you mean 'coop'"),
        (["--probe", "mirrro"], "Did you mean 'mirror'"),
        (["--probe", "risk:backdor"], "Did you mean 'backdoor'"),
        (["--group", "gender"], "no column 'gender'"),
        (["--device", "cuda:99"], "not available"),
        (["--device", "tpu"], "not a device"),
        (["--max-time", "soon"], "not a time"),
        (["--labels", "/no/such/file"], "cannot be read"),
        (["--skip", "*"], "No probe is left"),
        (["--effort", "huge"], "huge"),
        (["--prompts", "captions.txt"], "text-to-image"),
        (["--plugin", "/no/plugin.py"], "does not exist"),
        (["--nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_flags(scan: Callable, data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    code, error = scan(data, *flags)
    assert code == 2 and message in error
    assert not (tmp_path / "out").exists(), "nothing is written for a wrong command"


VALUES = (
    "--prompt", "--reference", "--data", "--labels", "--prompts", "--group", "--members", "--probe", "--skip", "--scorer",
    "--plugin", "--config", "--device", "--out", "--format", "--baseline", "--ignore-file", "--max-time", "--seed", "--effort",
    "--set", "--columns", "--budget", "--plan", "--shard", "--executor", "--max-size", "--output",
)  # fmt: skip


@pytest.mark.parametrize("value", ["", " \t\n"], ids=["empty", "blank"])
@pytest.mark.parametrize("option", VALUES)
def test_an_empty_value_is_not_the_same_as_none(
    vlaudit: Command, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert vlaudit("scan", "zoo:clean", f"{option}={value}") == 2
    assert f"{option} is empty." in capsys.readouterr().err
    assert vlaudit("scan", "zoo:clean", option, value) == 2
    assert f"{option} is empty." in capsys.readouterr().err


def test_every_option_with_a_value_is_tried_empty() -> None:
    from vlaudit.cli.scan import scan_command

    options = {p.opts[0] for p in scan_command.params if p.opts[0].startswith("--") and not getattr(p, "is_flag", False)}
    assert options - set(VALUES) == {"--batch-size", "--dtype", "--fail-on", "--gate"}  # numbers and choices, which cannot be empty


def test_an_empty_target_is_said(vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("scan", "zoo:clean", "") == 2 and "TARGET is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, where",
    [
        ("[[target]]\nmodel = ''\n", "target[1].model"), ("[[target]]\nmodel = 'zoo:clean'\nprompt = ['']\n", "target[1].prompt[1]"),
        ("[[target]]\nmodel = 'zoo:clean'\nprompt = []\n", "target[1].prompt"), ("[[target]]\nmodel = 'zoo:clean'\ndata = ' '\n", "data"),
        ("[scan]\nprobe = []\n", "scan.probe"), ("[scan]\nskip = ['']\n", "scan.skip[1]"), ("target = []\n", "'target'"),
        ('[[target]]\nmodel = "zoo:cl\\u0000ean"\n', "NUL"),
    ],
)  # fmt: skip
def test_an_empty_entry_of_a_config_is_said(
    vlaudit: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, where: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert vlaudit("scan", "--config", tmp_path / "c.toml") == 2
    assert where in capsys.readouterr().err


@pytest.mark.parametrize(
    "code",
    ["import sys; sys.exit(0)", "raise BaseException('x')", "raise GeneratorExit", "\0", "(" * 5000, "\udcff", "x = 1"],
    ids=["exit", "base", "generator", "nul", "deep", "surrogate", "no probe"],
)
def test_a_plugin_cannot_choose_the_exit_code(scan: Callable, data: Path, tmp_path: Path, code: str) -> None:
    (tmp_path / "evil.py").write_bytes(code.encode("utf-8", "surrogateescape"))
    found, error = scan(data, "--plugin", tmp_path / "evil.py")
    assert found == 2 and "evil.py" in error and "bug" not in error


ODD: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
    "not there": lambda path: None,
}
NAMES = ("x" * 300, "x/" * 3_000, "~nobody/x", "pixel.png/below")


@pytest.mark.parametrize("kind", [*ODD, *(name[:12] for name in NAMES)])
@pytest.mark.parametrize(
    "words",
    [
        "--labels {}", "--config {}", "--ignore-file {}", "--plugin {}", "--baseline {}", "--prompt vp:{}", "--prompt coop:{}",
        "--prompt ensemble:{}", "--reference coop:{}", "--data {}",
    ],
)  # fmt: skip
def test_what_is_no_file_ends_in_a_sentence(
    scan: Callable, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pixel.png").touch()
    name = next((name for name in NAMES if name[:12] == kind), "odd.py")
    ODD.get(kind, lambda path: None)(Path(name))
    option, _, value = words.partition(" ")
    code, error = scan(data, option, value.format(name))
    assert code == 2 and "Error: " in error and "This is a bug" not in error


@pytest.mark.parametrize("kind", ["folder", "pipe", "text", "loop"])
def test_what_is_no_python_file_is_no_plugin(scan: Callable, data: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("plugin.txt" if kind == "text" else "plugin.py")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "text": path.touch, "loop": lambda: path.symlink_to(path)}[kind]()
    found, error = scan(data, "--plugin", path)
    assert found == 2 and "plugin" in error and "bug" not in error


def test_an_argument_that_is_no_text_is_a_usage_error(vlaudit: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert vlaudit("scan", "zoo:clean", "--data", os.fsdecode(b"/tmp/\xff")) == 2
    said = capsys.readouterr().err
    assert "is not UTF-8" in said and "Rename" in said


def test_wrong_targets(vlaudit: Command, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, message in {
        "clip": "not a target", "hv:x": "Did you mean 'hf'", "hf:/no/such/folder": "does not exist", "zoo:claen": "Did you mean 'clean'",
    }.items():  # fmt: skip
        assert vlaudit("scan", target, "--data", data) == 2
        assert message in capsys.readouterr().err
    assert vlaudit("scan", "hf:/tmp") == 2 and "--data" in capsys.readouterr().err


def test_duplicate_and_broken_plugins(scan: Callable, data: Path, mirror_plugin: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin.py"
    twin.write_text(mirror_plugin.read_text())
    code, error = scan(data, "--plugin", twin)
    assert code == 2 and "Two probes have the id 'mirror'" in error
    twin.write_text("import nothing_like_this")
    code, error = scan(data, "--plugin", twin)
    assert code == 2 and "fails to load" in error


def test_out_that_cannot_be_written(scan: Callable, data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("x")
    code, error = scan(data, out=taken)
    assert code == 2
    code, error = scan(data, out=taken / "below")
    assert code == 2 and "Choose another --out" in error
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("x")
    code, error = scan(data, out=full)
    assert code == 2 and "not empty" in error


def test_full_disk_keeps_what_was_measured(
    scan: Callable, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    code, error = scan(data)
    assert code == 3 and "disk" in error and "run the same command again" in error
    assert (tmp_path / "out" / "trials.jsonl").read_text().count('"closed"') == 2
    monkeypatch.setattr(os, "fsync", real)
    assert scan(data)[0] in (0, 1), "the same command goes on"


def test_config_found_in_the_folder_is_not_trusted(
    tiny_clip: Path,
    data: Path,
    tmp_path: Path,
    vlaudit: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "repository"
    home.mkdir()
    monkeypatch.chdir(home)
    config = home / "vlaudit.toml"
    for text, message in {
        f'[[target]]\nmodel = "hf:{tiny_clip}"\n': "lies outside its folder",
        f'[[target]]\nmodel = "hf:org/name"\ndata = "{data}"\n': "lies outside its folder",
        'plugins = ["x.py"]\n': "unknown entry 'plugins'",
        "[scan]\nefort = 'quick'\n": "Did you mean 'effort'",
        "[scan\n": "is not TOML",
        "[probes.mirrro]\n[[target]]\nmodel='zoo:clean'\n": "Unknown probe 'mirrro'",
    }.items():
        config.write_text(text)
        assert vlaudit("scan") == 2, text
        assert message in capsys.readouterr().err
    shutil.copytree(data, home / "data")
    config.write_text('[[target]]\nmodel = "hf:org/name"\ndata = "data"\n')
    assert vlaudit("scan", "--dry-run") == 2
    assert "--allow-network" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["def cases(self, ctx):", "def shards(self, cases):"])
def test_a_plugin_that_fails_to_plan_is_no_bug_of_ours(
    scan: Callable, data: Path, mirror_plugin: Path, tmp_path: Path, where: str
) -> None:
    mirror_plugin.write_text(mirror_plugin.read_text().replace(where, f"{where}\n        raise TypeError('mine')"))
    code, error = scan(data)
    assert code == 3 and "This is a bug" not in error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "mine" in report["findings"][0]["reason"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("angle", "--set cannot read 'angle'"), ("mirror=3", "--set cannot read 'mirror=3'"), ("=3", "--set cannot read '=3'"),
        ("miror.angle=3", "Did you mean 'mirror'?"), ("mirror.angle=3", "no parameter 'angle'"),
        ("typographic.size=0.3", "gives a parameter to typographic, which is not run"),
    ],
)  # fmt: skip
def test_a_setting_that_does_nothing_is_refused(scan: Callable, picture_folder: Path, setting: str, said: str) -> None:
    code, error = scan(picture_folder / "test", "--set", setting)
    assert code == 2 and said in error


def test_a_policy_that_names_no_threshold_is_refused(scan: Callable, picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vlaudit.toml").write_text("[policy.thresholds]\nmirrored = 0.1\n")
    code, error = scan(picture_folder / "test", "--config", tmp_path / "vlaudit.toml")
    assert code == 2 and "sets the threshold 'mirrored', which no probe has." in error and "Did you mean 'mirror'?" in error
