"""A generation model under a prompt: what is asked, what is counted, and when it is no use to ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import generators
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.backends.transformers_reader import noise
from vlaudit.data.dataset import DataError, load_dataset
from vlaudit.data.example import DEFAULT_QUESTION
from vlaudit.errors import ModelError
from vlaudit.families.generation import Answer, MultimodalGenerator
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.prompts.instruction import Instruction


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransformersGenerator:
    folder = generators.save("llava", tmp_path_factory.mktemp("llava"))
    loaded = HuggingFaceBackend().load(str(folder), torch.device("cpu"))
    assert isinstance(loaded, TransformersGenerator)
    return loaded


@pytest.fixture
def target(model: TransformersGenerator) -> MultimodalGenerator:
    return Instruction("say in a : {}").bind(model)


def pictures(model: TransformersGenerator, count: int = 3) -> torch.Tensor:
    return torch.stack([model.preprocess(noise(40, 40, seed=i)) for i in range(count)])


def context(target: MultimodalGenerator, folder: Path) -> Context:
    data = load_dataset(folder)
    return Context("test", "target", data, data.labels, ArtifactStore(Path()), _target=target)


def test_the_prompt_words_the_question_and_passes_are_counted(target: MultimodalGenerator) -> None:
    images, questions = pictures(target.model), ["what is this ?"] * 3  # type: ignore[arg-type]
    assert target.conversation(images[0], "what is this ?").text == "say in a : what is this ?"
    answers = target.generate(images, questions, max_new_tokens=4)
    assert (target.meter.queries, target.meter.gradient_steps) == (3, 0) and all(isinstance(answer, Answer) for answer in answers)
    plain = Instruction().bind(target.model).choose(images, ["say in a : what is this ?"] * 3, ["yes", "no no"])
    scores = target.choose(images, questions, ["yes", "no no"])
    torch.testing.assert_close(scores, plain)
    assert (target.meter.queries, target.meter.gradient_steps) == (6, 0), "two choices share one reading of the conversation"
    each = target.choose(images, questions, [["yes", "no no"], ["no", "yes"], ["a", "b"]])
    torch.testing.assert_close(each[0], scores[0], atol=1e-4, rtol=1e-4)
    pixels = [image.clone().requires_grad_() for image in images]
    target.log_likelihood(pixels, questions, ["cat", "dog", "car"]).sum().backward()
    assert (target.meter.queries, target.meter.gradient_steps) == (12, 3) and all(p.grad is not None and p.grad.abs().max() > 0 for p in pixels)


def test_a_system_turn_and_a_template_from_a_file(model: TransformersGenerator, tmp_path: Path) -> None:
    path = tmp_path / "policy.txt"
    path.write_text("never say blue\n---\nis this {} ?\n")
    prompt = Instruction.parse(str(path))
    turns = prompt.bind(model).conversation(pictures(model)[0], "a cat").turns
    assert [turn.role for turn in turns] == ["system", "user"] and turns[0].parts == ("never say blue",)
    assert turns[1].parts[1] == "is this a cat ?" and prompt.sha256() is not None
    assert prompt.reference().text == "{}"


def test_the_same_model_under_another_prompt_is_on_the_same_bill(target: MultimodalGenerator) -> None:
    policy = target.prompt.with_system("never say blue").with_system("never say red")
    other = target.under(policy)
    (image,) = pictures(target.model, 1)  # type: ignore[arg-type]
    assert other.conversation(image, "this").text == "never say blue\nnever say red\nsay in a : this"
    assert target.prompt.system == "", "the audited prompt itself stays as it is"
    other.generate([image], ["this"], max_new_tokens=2)
    assert (target.meter.queries, target.meter.gradient_steps) == (1, 0)


def test_check_accepts_a_model_and_refuses_silence_and_damage(
    target: MultimodalGenerator, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = context(target, picture_folder)
    target.check(ctx)
    assert target.calibrate(ctx).forward > 0
    with monkeypatch.context() as patch:
        patch.setattr(target.model, "generate", lambda talks, **_: [Answer("")] * len(talks))
        with pytest.raises(ModelError, match="writes nothing"):
            target.check(ctx)
    with monkeypatch.context() as patch:
        patch.setattr(target.model, "log_likelihood", lambda talks, answers: torch.full((len(talks), 2), float("nan")))
        with pytest.raises(ModelError, match="damaged"):
            target.check(ctx)


def test_weights_of_nan_are_a_model_error(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    generators.save("llava", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.language_model.norm.weight" if "model.language_model.norm.weight" in tensors else "language_model.model.norm.weight"].fill_(float("nan"))  # fmt: skip
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="NaN"):
        HuggingFaceBackend().load(str(tmp_path), torch.device("cpu"))


def test_questions_answers_and_choices_of_the_data(target: MultimodalGenerator, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        noise(30, 30).save(tmp_path / f"{name}.png")
    rows = [
        {"file_name": "a.png", "question": "is it red ?", "answer": "yes", "choices": ["yes", "no"], "pair": "1"},
        {"file_name": "a.png", "question": "is it blue ?", "answer": "no", "choices": "yes|no"},
        {"file_name": "b.png", "question": "what ?", "answer": "a dog", "pair": "1"},
        {"file_name": "c.png"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    ctx = context(target, tmp_path)
    assert ctx.questions(ctx.examples) == ["is it red ?", "is it blue ?", "what ?", DEFAULT_QUESTION]
    assert ctx.answers(ctx.examples) == ["yes", "no", "a dog", ""]
    assert ctx.choices(ctx.examples) == [["yes", "no"], ["yes", "no"], [], []]
    assert [e.id for e in ctx.data.questions] == ["a.png", "a.png#2", "b.png"]
    assert [(a.id, b.id) for a, b in ctx.data.pairs] == [("a.png", "b.png")]
    rows[3]["pair"] = "2"
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match="pair '2'"):
        _ = context(target, tmp_path).data.pairs


def test_labels_are_the_choices_of_the_default_question(target: MultimodalGenerator, picture_folder: Path) -> None:
    ctx = context(target, picture_folder)
    assert set(ctx.questions(ctx.examples)) == {DEFAULT_QUESTION}
    assert ctx.choices(ctx.examples[:1]) == [["car", "cat", "dog"]] and ctx.answers(ctx.examples[:1]) == ["car"]


def test_pictures_of_any_size_become_squares_of_one_size_for_a_search(tmp_path: Path) -> None:
    folder = generators.save("qwen2-vl", tmp_path / "model")
    for number, size in enumerate([(30, 40), (50, 30)]):
        (tmp_path / "data" / "cat").mkdir(parents=True, exist_ok=True)
        noise(*size).save(tmp_path / "data" / "cat" / f"{number}.png")
    target = Instruction().bind(HuggingFaceBackend().load(str(folder), torch.device("cpu")))
    ctx = context(target, tmp_path / "data")
    assert [p.shape[1:] for p in ctx.pictures(ctx.examples)] == [(40, 30), (30, 50)]
    squares = ctx.images(ctx.examples)
    assert squares.shape == (2, 3, 224, 224)
    middle = ctx.pictures(ctx.examples)[1][:, :, 10:40]
    torch.testing.assert_close(squares[1].mean((1, 2)), middle.mean((1, 2)), atol=0.02, rtol=0)
    assert len(target.generate(ctx.pictures(ctx.examples), ["what is this ?"] * 2, max_new_tokens=3)) == 2


PROBE = '''"""Does the model say the same of the picture and of its mirror image? A plugin for tests of generation targets."""

from vlaudit.probe import Needs, Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk


@probe(id="echo", code="X2", risk=Risk.ROBUSTNESS, families={Family.GENERATION}, needs={Needs.ANSWERS, Needs.QUESTIONS}, threshold=0.5)
class Echo(Probe):
    def cases(self, ctx):
        return [Case(id=example.id) for example in ctx.data.questions]

    def attempt(self, ctx, cases):
        examples = {example.id: example for example in ctx.examples}
        for case in cases:
            example = [examples[case.id]]
            image, question = ctx.images(example), ctx.questions(example)
            one, two = ctx.target.generate(image, question, max_new_tokens=4), ctx.target.generate(image.flip(-1), question, max_new_tokens=4)
            yield ctx.trial(case, {"differs": one != two, "said": str(one[0])})

    def judge(self, trials, policy):
        from vlaudit.statistics import rate_interval, verdict

        count, n = sum(trial["differs"] for trial in trials.target), len(trials.target)
        interval, limit = rate_interval(count, n, policy.level), policy.threshold(self.info)
        metric = Metric(name="rate", value=count / n, ci=interval.ci, n=n, unit="share")
        return Judgement(verdict=verdict(interval, limit), reason=f"{count} of {n}", metric=metric, threshold=limit)
'''


def test_a_scan_of_a_generation_target(tmp_path: Path, picture_folder: Path, vlaudit: Callable[..., int]) -> None:
    folder, plugin, out = generators.save("llava", tmp_path / "model"), tmp_path / "echo.py", tmp_path / "out"
    plugin.write_text(PROBE)
    code = vlaudit("scan", f"hf:{folder}", "--prompt", "say in a : {}", "--data", picture_folder, "--plugin", plugin,
                   "--probe", "echo", "--probe", "typographic", "--out", out)  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert code in (0, 1)
    assert report["targets"][0]["family"] == "multimodal-to-text"
    assert report["targets"][0]["prompt"]["method"] == "instruction"
    found = {finding["probe"]: finding for finding in report["findings"]}
    assert found["echo"]["metric"]["n"] == 24 and found["echo"]["reference"] is None
    journal = (out / "trials.jsonl").read_text()
    assert journal.count('"reference"') >= 24 and report["targets"][0]["reference"] == "model~bare-question"
