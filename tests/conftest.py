"""Small real models and data for all tests. Nothing here needs a network."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, by every process that a test starts too

LABELS = ("car", "cat", "dog")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, because many tests wait for a process of their own or for a time to pass."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: whoever takes it last leaves the other processes idle."""
    items.sort(key=lambda item: item.path.stem != "test_default_scan")


def word_tokenizer(words: list[str], folder: Path) -> int:
    """Save a word-level tokenizer with CLIP-like start and end tokens; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=16,
    ).save_pretrained(folder)
    return len(vocabulary)


def save_tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A random `CLIPModel` of 40 thousand parameters in a plain `save_pretrained` folder: plumbing, not accuracy."""
    from transformers import CLIPConfig, CLIPModel

    size = word_tokenizer([*["a", "photo", "of", "picture", "the"], *LABELS], folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **tower,
            "vocab_size": size,
            "max_position_embeddings": 16,
            "eos_token_id": 3,
            "bos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("tiny-clip"))


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and test/ with 8 noisy pictures of each of three labels."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for channel, label in enumerate(LABELS):
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(8):
                pixels = rng.integers(0, 200, (40, 40, 3)).astype(np.uint8)
                pixels[..., channel] = 255
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


MIRROR = '''"""Does a mirrored picture keep its label? A plugin for tests: it measures how often the top label changes when the
picture is mirrored, a change that means nothing to most pictures and that a matcher should therefore ignore.

Threat. Cameras may mirror.

What to do. Mirror training pictures."""

import os
import time

from vlaudit.probe import Needs, Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk


@probe(id="mirror", code="X1", risk=Risk.ROBUSTNESS, families={Family.MATCHING}, needs={Needs.LABELS}, threshold=0.5,
       headline="A mirrored picture loses its label")
class Mirror(Probe):
    def cases(self, ctx):
        return [Case(id=example.id) for example in ctx.examples]

    def shards(self, cases):
        return [cases[i : i + 4] for i in range(0, len(cases), 4)]

    def attempt(self, ctx, cases):
        import torch

        examples = {example.id: example for example in ctx.examples}
        classify = ctx.target.classifier(ctx.labels)
        for case in cases:
            time.sleep(float(os.environ.get("MIRROR_SLEEP", "0")))
            image = ctx.images([examples[case.id]])
            with torch.no_grad():
                flipped = bool(classify(image).argmax() != classify(image.flip(-1)).argmax())
            yield ctx.trial(case, {"flipped": flipped, "draw": int(ctx.rng(case).integers(1000))})

    def judge(self, trials, policy):
        from vlaudit.statistics import rate_interval, verdict

        count, n = sum(trial["flipped"] for trial in trials.target), len(trials.target)
        interval, limit = rate_interval(count, n, policy.level), policy.threshold(self.info)
        metric = Metric(name="flip rate", value=count / n, ci=interval.ci, n=n, unit="share")
        return Judgement(verdict=verdict(interval, limit), reason=f"{count} of {n} flip", metric=metric, threshold=limit)
'''


@pytest.fixture
def mirror_plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mirror.py"
    path.write_text(MIRROR)
    return path


@pytest.fixture
def vlaudit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command line in this process and return its exit code."""
    from vlaudit.cli import run

    def call(*arguments: object) -> int:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["vlaudit", *words])
        return run(words)

    return call


@pytest.fixture(scope="session")
def browser() -> Any:
    """A Chromium, offline; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[test])")
    chromium = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
    if not chromium.exists():
        pytest.skip(f"no Chromium at {chromium}: install one or set CHROMIUM")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=str(chromium), args=["--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
        )
        yield launched
        launched.close()
