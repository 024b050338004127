"""Prompts of generation models: who is shown, in which order, what is learned, and that only the target carries it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import generators
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.backends.transformers_reader import noise
from vlaudit.config import read_config
from vlaudit.data.dataset import load_dataset
from vlaudit.errors import UnsafeFileError, UsageError
from vlaudit.families.generation import Demonstration, LearnedPrefix
from vlaudit.probe import Needs
from vlaudit.prompts.chain_of_thought import ChainOfThought
from vlaudit.prompts.in_context import InContext
from vlaudit.prompts.instruction import Instruction
from vlaudit.prompts.retrieval import Retrieval
from vlaudit.prompts.soft import PrefixTuning, PromptTuning, SoftPrompt
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family

QUESTION = "what is this ?"


def load(folder: Path) -> TransformersGenerator:
    model = HuggingFaceBackend().load(str(folder), torch.device("cpu"))
    assert isinstance(model, TransformersGenerator)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generators.save("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersGenerator:
    return load(folder)


def pictures(model: TransformersGenerator, count: int = 3) -> list[torch.Tensor]:
    return [model.preprocess(noise(40, 40, seed=i)) for i in range(count)]


def parse(spec: str) -> Any:
    return parse_prompt(spec, Family.GENERATION)


# --- demonstrations -------------------------------------------------------------------------------------------------


def test_in_context_draws_by_seed_and_balances_answers(picture_folder: Path, model: TransformersGenerator) -> None:
    prompt = parse(f"in-context:pool={picture_folder},k=6,seed=1,instruction=say in a : {{}}")
    assert isinstance(prompt, InContext) and Needs.CONTEXT in prompt.bind(model).capabilities
    assert sorted(e.answer or "" for e in prompt.examples) == ["car", "car", "cat", "cat", "dog", "dog"]
    assert all(e.split == "train" for e in prompt.examples), "the test split is for the audit"
    same = parse(f"in-context:pool={picture_folder},k=6,seed=1")
    other = parse(f"in-context:pool={picture_folder},k=6,seed=2")
    drawn = [e.id for e in prompt.examples]
    assert drawn == [e.id for e in same.examples] != [e.id for e in other.examples]
    orders = [
        [e.id for e in parse(f"in-context:pool={picture_folder},k=6,seed=1,order={o}").examples]
        for o in ("pool", "reverse")
    ]
    assert orders[0] == sorted(drawn) and orders[1] == orders[0][::-1]
    assert set(prompt.members) == {e.sha256() for e in prompt.examples} and prompt.sha256() is not None
    (picture,) = pictures(model, 1)
    turns = prompt.bind(model).conversation(picture, QUESTION).turns
    assert [turn.role for turn in turns] == ["user", "assistant"] * 6 + ["user"]
    assert turns[0].parts[1] == "say in a : What is this?" and turns[1].parts == (prompt.examples[0].answer,)
    expected = model.preprocess(prompt.examples[0].open())
    assert torch.equal(turns[0].parts[0], expected) and turns[-1].parts[0] is picture  # type: ignore[arg-type]


def test_demonstrations_change_answers_and_can_be_replaced(picture_folder: Path, model: TransformersGenerator) -> None:
    prompt = parse(f"in-context:pool={picture_folder},k=3")
    images, questions = pictures(model, 4), [QUESTION] * 4
    plain, shown = Instruction().bind(model), prompt.bind(model)
    scores = shown.choose(images, questions, ["cat", "dog"])
    assert not torch.allclose(scores, plain.choose(images, questions, ["cat", "dog"]), atol=1e-2)
    flipped = prompt.with_pool(
        [Demonstration(d.id, d.question, "red", d.picture) for d in prompt.demonstrations(model, images[0], QUESTION)]
    )
    changed = flipped.bind(model).choose(images, questions, ["cat", "dog"])
    assert not torch.allclose(scores, changed, atol=1e-2)
    torch.testing.assert_close(prompt.bind(model).choose(images, questions, ["cat", "dog"]), scores)


def test_questions_and_documents_of_a_pool(tmp_path: Path, model: TransformersGenerator) -> None:
    rows: list[dict[str, str]] = [
        {"file_name": "0.png", "question": "is it red ?", "answer": "yes"},
        {"file_name": "1.png", "text": "the dog is blue"},
    ]
    for row, seed in zip(rows, (0, 1), strict=True):
        noise(30, 30, seed=seed).save(tmp_path / row["file_name"])
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    prompt = InContext(load_dataset(tmp_path), 2)
    (picture,) = pictures(model, 1)
    turns = prompt.conversation(model, picture, QUESTION).turns
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[0].parts[1] == "is it red ?" and turns[1].parts == ("yes",)
    assert turns[2].parts[1] == "Context: the dog is blue\n" and turns[2].parts[3] == QUESTION


def test_retrieval_shows_the_nearest_last(
    tmp_path: Path, picture_folder: Path, tiny_clip: Path, model: TransformersGenerator
) -> None:
    prompt = parse(f"retrieval:pool={picture_folder},k=3,embedder=hf:{tiny_clip}")
    assert isinstance(prompt, Retrieval) and Needs.CONTEXT in prompt.bind(model).capabilities
    for example in prompt.pool.examples[::7]:
        picture = model.preprocess(example.open())
        shown = prompt.demonstrations(model, picture, "What is this?")
        assert len(shown) == 3 and shown[-1].id == example.id, "a picture is nearest to itself"
        scores = prompt.scores(model, picture, "What is this?").sort(descending=True).values
        assert float(scores[0]) == pytest.approx(2.0, abs=1e-4) and float(scores[1]) < 2.0
    (picture,) = pictures(model, 1)
    planted = Demonstration("planted", QUESTION, "red", picture)
    poisoned = prompt.with_pool([*prompt.pool_of(model), planted])
    assert poisoned.demonstrations(model, picture, QUESTION)[-1].id == "planted"
    text = Demonstration("text", "a photo of a cat", None)
    assert len(prompt.with_pool([text]).demonstrations(model, picture, QUESTION)) == 1


def test_retrieval_uses_the_bundled_matcher(picture_folder: Path, model: TransformersGenerator) -> None:
    prompt = parse(f"retrieval:{picture_folder}")
    (picture,) = pictures(model, 1)
    assert len(prompt.bind(model).conversation(picture, QUESTION).turns) == 9 and "zoo:clean" in prompt.text


# --- chain of thought -----------------------------------------------------------------------------------------------


def test_each_step_follows_the_answers_before(model: TransformersGenerator, tmp_path: Path) -> None:
    path = tmp_path / "steps.txt"
    path.write_text("{} say in a picture\nwhat of the red\nyes and no to :\n")
    prompt = parse(f"chain-of-thought:file={path},tokens=5")
    assert isinstance(prompt, ChainOfThought)
    target, images = prompt.bind(model), pictures(model)
    answers = target.generate(images, [QUESTION] * 3, max_new_tokens=4)
    assert (target.meter.queries, target.meter.gradient_steps) == (9, 0), "three steps"
    first = Instruction("{} say in a picture").bind(model)
    for image, answer in zip(images, answers, strict=True):
        talk = first.conversation(image, QUESTION)
        (one,) = model.generate([talk], max_new_tokens=5)
        talk = talk.then(one, "what of the red")
        (two,) = model.generate([talk], max_new_tokens=5)
        talk = talk.then(two, "yes and no to :")
        assert answer.steps == (one, two) and model.generate([talk], max_new_tokens=4) == [answer]
        expected = model.log_likelihood([talk], [["yes", "no"]])
        torch.testing.assert_close(target.choose([image], [QUESTION], ["yes", "no"]), expected, atol=1e-4, rtol=1e-4)
    assert parse("chain-of-thought:zero-shot").steps == ("Therefore, the answer is",)


# --- learned vectors ------------------------------------------------------------------------------------------------


def peft_folder(base: Path, folder: Path, kind: str) -> Any:
    """A random adapter as a user has it: made, and saved, by peft on the official model."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(3)
    own = AutoModelForImageTextToText.from_pretrained(base)
    text = own.config.text_config
    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5, "token_dim": 32, "num_layers": text.num_hidden_layers,
              "num_attention_heads": text.num_attention_heads}  # fmt: skip
    if kind == "prefix-tuning":
        common |= {"token_dim": 16, "num_attention_heads": 1}  # its one key-value head
    made = get_peft_model(own, (PrefixTuningConfig if kind == "prefix-tuning" else PromptTuningConfig)(**common))
    made.prompt_encoder["default"].embedding.weight.data.mul_(2)
    made.save_pretrained(str(folder))
    return made.eval()


@pytest.mark.parametrize("kind", ["prompt-tuning", "prefix-tuning"])
def test_peft_folders_do_here_what_they_do_in_peft(
    kind: str, folder: Path, model: TransformersGenerator, tmp_path: Path
) -> None:
    made = peft_folder(folder, tmp_path, kind)
    target = parse(f"{kind}:{tmp_path}").bind(model)
    assert Needs.LEARNED_PROMPT in target.capabilities
    plain = Instruction().bind(model)
    images, questions = pictures(model), [QUESTION] * 3
    before = plain.choose(images, questions, ["cat", "a dog"])
    scores = target.choose(images, questions, ["cat", "a dog"])
    for row, image in enumerate(images):
        talk = plain.conversation(image, QUESTION)
        for column, answer in enumerate(["cat", "a dog"]):
            ids = model.tokens(talk) + model.tokenize(answer)
            labels = torch.tensor([[-100] * len(model.tokens(talk)) + model.tokenize(answer)])
            with torch.no_grad():
                out = made(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                           pixel_values=model._reader.pictures(talk.turns, model.device)["pixel_values"])  # fmt: skip
            table = out.logits[0, -len(model.tokenize(answer)) - 1 : -1].log_softmax(-1)
            expected = table.gather(1, labels[0, labels[0] >= 0][:, None]).sum()
            assert float(scores[row, column]) == pytest.approx(float(expected), abs=2e-3)
    assert not torch.allclose(scores, before, atol=1e-2), "the learned vectors matter"
    torch.testing.assert_close(plain.choose(images, questions, ["cat", "a dog"]), before)
    assert target.generate(images, questions) == [target.generate([i], [QUESTION])[0] for i in images]


def test_vectors_made_of_words_equal_the_words(model: TransformersGenerator) -> None:
    """Prompt tuning with words' embeddings, and prefix tuning with their keys and values, are the same thing."""
    ids = model.tokenize("this is the red dog")
    images, questions = pictures(model), [QUESTION] * 3
    soft = PromptTuning(LearnedPrefix(embeddings=model.token_embeddings(ids))).bind(model)
    deep = PrefixTuning(LearnedPrefix(keys_values=model.keys_values(ids))).bind(model)
    torch.testing.assert_close(
        soft.choose(images, questions, ["cat", "a dog"]),
        deep.choose(images, questions, ["cat", "a dog"]),
        atol=1e-4,
        rtol=1e-4,
    )
    assert soft.generate(images, questions) == deep.generate(images, questions)


@pytest.mark.parametrize("method", [PromptTuning, PrefixTuning])
def test_fit_learns_repeats_and_leaves_the_model_alone(
    method: type[SoftPrompt], model: TransformersGenerator, tmp_path: Path
) -> None:
    images = pictures(model, 6)
    answers = ["red cat"] * 6
    weights = {name: value.clone() for name, value in model._model.state_dict().items()}
    losses: list[float] = []
    options: dict[str, Any] = {"size": 8, "steps": 60, "batch_size": 6, "rate": 0.2}
    prompt = method.fit(
        model, images, [QUESTION] * 6, answers, members=["ab"], progress=lambda _, loss: losses.append(loss), **options
    )
    again = method.fit(model, images, [QUESTION] * 6, answers, **options)
    assert losses[-1] < 0.8 * losses[0]
    prompt.save(tmp_path / "learned")
    loaded = method.load(tmp_path / "learned")
    assert loaded.members == ["ab"] and loaded.base_model == model.sha256 and loaded.sha256() is not None
    scores = [p.bind(model).choose(images, [QUESTION] * 6, ["red cat", "blue dog"]) for p in (prompt, again, loaded)]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])
    assert all(torch.equal(value, weights[name]) for name, value in model._model.state_dict().items())
    assert (prompt.reference().method, prompt.reference().text) == ("instruction", "{}")


def test_learned_vectors_with_demonstrations_are_in_the_shared_cache(
    model: TransformersGenerator, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = parse(f"in-context:pool={picture_folder},k=3")
    images, questions = pictures(model, 4), [QUESTION] * 4
    for prefix in (
        LearnedPrefix(embeddings=torch.randn(4, 32, generator=torch.Generator().manual_seed(0))),
        LearnedPrefix(keys_values=model.keys_values(model.tokenize("this is the red"))),
    ):
        prompt = InContext(context.pool, 3)
        prompt.prefix = prefix
        with_cache = prompt.bind(model).choose(images, questions, ["cat", "a dog"])
        (batch, *_) = model.batcher.batches([prompt.conversation(model, i, QUESTION) for i in images])
        assert batch.shared.turns == 6 and batch.shared.length > 50
        if prefix.embeddings is not None:
            with monkeypatch.context() as patch:
                patch.setattr(model.batcher, "shares_cache", False)
                plain = prompt.bind(model).choose(images, questions, ["cat", "a dog"])
            torch.testing.assert_close(with_cache, plain, atol=1e-4, rtol=1e-4)


def test_an_encoder_decoder_takes_a_learned_prompt(tmp_path: Path) -> None:
    other = load(generators.save("florence-2", tmp_path))
    ids = other.tokenize("this is the")
    soft = PromptTuning(LearnedPrefix(embeddings=other.token_embeddings(ids))).bind(other)
    images = pictures(other)
    scores = soft.choose(images, [QUESTION] * 3, ["cat", "a dog"])
    assert not torch.allclose(
        scores, Instruction().bind(other).choose(images, [QUESTION] * 3, ["cat", "a dog"]), atol=1e-3
    )
    with pytest.raises(UsageError, match="prefix tuning needs"):
        PrefixTuning(LearnedPrefix(keys_values=torch.zeros(2, 2, 2, 4, 16))).bind(other)


# --- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, message",
    [
        ("say nothing {} {}", "exactly one"),
        ("instruction:nowhere.txt", "cannot be read"),
        ("in-context:pool=nowhere", "does not exist"),
        ("in-context:k=3", "needs a pool"),
        ("in-context:pool=DATA,k=none", "whole number"),
        ("in-context:pool=DATA,k=0", "whole number"),
        ("in-context:pool=DATA,order=pol", "did you mean 'pool'"),
        ("in-context:pool=DATA,sed=1", "cannot take 'sed'"),
        ("retrieval:pool=DATA,embedder=hf:some/clip", "not on this disk"),
        ("chain-of-thought:nowhere.txt", "cannot be read"),
        ("prompt-tuning:nowhere", "no peft folder"),
        ("coop:nowhere", "prompts are for image-text-matching"),
    ],
)
def test_specs_that_are_wrong(spec: str, message: str, picture_folder: Path, model: TransformersGenerator) -> None:
    with pytest.raises(UsageError, match=f"(?i){message}"):
        parse(spec.replace("DATA", str(picture_folder))).bind(model)


def adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _cases(folder: Path) -> Sequence[tuple[type[SoftPrompt], Path, str]]:
    values = torch.ones(4, 32)
    prefix = {"num_layers": 2, "num_attention_heads": 1, "token_dim": 16}
    return [
        (PromptTuning, adapter(folder / "a", {"prompt_embeddings": torch.ones(4, 48)}, peft_type="PROMPT_TUNING"), "48 wide"),
        (PromptTuning, adapter(folder / "b", {"other": values}, peft_type="PROMPT_TUNING"), "lacks the tensor"),
        (PromptTuning, adapter(folder / "c", {"prompt_embeddings": values * torch.nan}, peft_type="PROMPT_TUNING"), "not finite"),
        (PromptTuning, adapter(folder / "i", {"prompt_embeddings": values, "prefix_task_cols": torch.ones(4, 2)}, peft_type="PROMPT_TUNING"), "more than prompt_embeddings: prefix_task_cols"),
        (PromptTuning, adapter(folder / "j", {"prompt_embeddings": values}, peft_type="PROMPT_TUNING", num_virtual_tokens=3), "holds 4 vectors"),
        (PromptTuning, adapter(folder / "d", {"prompt_embeddings": values}, peft_type="PREFIX_TUNING"), "prefix-tuning:"),
        (PromptTuning, adapter(folder / "e", {"prompt_embeddings": values}, peft_type="LORA"), "LORA"),
        (PrefixTuning, adapter(folder / "f", {"prompt_embeddings": values}, peft_type="PREFIX_TUNING"), "shape"),
        (PrefixTuning, adapter(folder / "g", {"prompt_embeddings": torch.ones(4, 96)}, peft_type="PREFIX_TUNING", **(prefix | {"num_layers": 3})), "3 layers"),
        (PrefixTuning, adapter(folder / "h", {"prompt_embeddings": torch.ones(4, 64)}, peft_type="PREFIX_TUNING", num_transformer_submodules=2, **prefix), "encoder-decoder"),
        (PromptTuning, adapter(folder / "junk-i", {"prompt_embeddings": values}, peft_type="PROMPT_TUNING", num_virtual_tokens=9), "num_virtual_tokens"),
        (PromptTuning, adapter(folder / "junk-j", {"prompt_embeddings": values}, peft_type="PROMPT_TUNING", num_virtual_tokens="4"), "num_virtual_tokens"),
        (PromptTuning, adapter(folder / "junk-k", {"prompt_embeddings": values * 1j}, peft_type="PROMPT_TUNING"), "lacks the tensor"),
        (PrefixTuning, adapter(folder / "junk-l", {"prompt_embeddings": values}, peft_type="PREFIX_TUNING", **(prefix | {"num_attention_heads": -1})), "shape"),
        (PrefixTuning, adapter(folder / "junk-m", {"prompt_embeddings": values}, peft_type="PREFIX_TUNING", **(prefix | {"token_dim": [32]})), "shape"),
        (PrefixTuning, adapter(folder / "junk-n", {"prompt_embeddings": values}, peft_type=["PREFIX_TUNING"]), "holds a"),
    ]  # fmt: skip


def test_adapters_that_do_not_fit(tmp_path: Path, model: TransformersGenerator) -> None:
    for method, folder, message in _cases(tmp_path):
        with pytest.raises(UsageError, match=message):
            method.parse(str(folder)).bind(model)
    (tmp_path / "a" / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match="not a readable"):
        PromptTuning.load(tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match="lacks adapter_model"):
        PromptTuning.load(tmp_path / "a")


def test_a_prompt_of_another_model_is_refused(tmp_path: Path, model: TransformersGenerator) -> None:
    PromptTuning(LearnedPrefix(embeddings=torch.ones(4, 32)), base_model="0" * 64).save(tmp_path / "p")
    with pytest.raises(UsageError, match="another model"):
        PromptTuning.load(tmp_path / "p").bind(model)


def test_an_adapter_with_code_stays_closed(tmp_path: Path) -> None:
    import os
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({"prompt_embeddings": Payload()}))
    with pytest.raises(UnsafeFileError):
        PromptTuning.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_an_untrusted_config_cannot_name_pools_outside_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "inside" / "vlaudit.toml"
    path.parent.mkdir()
    text = '[[target]]\nmodel = "hf:model"\ndata = "data"\nprompt = ["{}"]\n'
    for spec in (
        "in-context:k=2,pool=../outside",
        "retrieval:pool=data,embedder=hf:../outside",
        "prompt-tuning:file=/etc",
    ):
        path.write_text(text.replace("{}", spec))
        with pytest.raises(UsageError, match="outside its folder"):
            read_config(path, trusted=False)
    path.write_text(text.replace("{}", "in-context:k=2,pool=data,instruction=a, b = {}, c"))
    (spec,) = read_config(path, trusted=False).target[0].prompt
    assert spec == f"in-context:k=2,pool={path.parent.resolve() / 'data'},instruction=a, b = {{}}, c"
