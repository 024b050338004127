"""The generation backend: what it says is what the checkpoint's own `generate` says, whatever is batched or reused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests import generators
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_batches import Batcher
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.backends.transformers_reader import noise
from vlaudit.errors import CapabilityError, ModelError, UsageError
from vlaudit.families.generation import Conversation, Turn, clean
from vlaudit.families.matching import SoftTokens
from vlaudit.probe import Needs
from vlaudit.records import Family

CPU = torch.device("cpu")
PICTURES = [noise(50, 40, seed=1), noise(31, 64, seed=2), noise(77, 33, seed=3), noise(24, 24, seed=4)]
QUESTIONS = ["what is this ?", "is this a cat ?", "what is that and the", "what is this ?"]
ANY_SIZE = {"llava-next", "idefics3-split", "qwen2-vl", "qwen2.5-vl", "internvl"}  # tiles, and sizes that vary
SHARING = {"llava", "llava-next", "idefics3", "idefics3-split", "internvl", "janus"}
ONE_PICTURE = ("blip", "florence", "kosmos")  # of how the names of such kinds begin


@pytest.fixture(scope="module", params=list(generators.KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generators.save(kind, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def model(folder: Path) -> TransformersGenerator:
    return load(folder)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> TransformersGenerator:
    return load(generators.save("llava", tmp_path_factory.mktemp("llava")))


def load(folder: Path) -> TransformersGenerator:
    model = HuggingFaceBackend().load(str(folder), CPU)
    assert isinstance(model, TransformersGenerator)
    return model


def ask(model: TransformersGenerator, number: int) -> Conversation:
    return Conversation((Turn("user", (model.preprocess(PICTURES[number]), QUESTIONS[number])),))


def official(folder: Path, model: Any, number: int, answer: str | None = None) -> tuple[Any, Any]:
    """The processor that the folder holds, and what it makes of a picture and a question."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    text = QUESTIONS[number]
    if processor.chat_template:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        text = processor.apply_chat_template(turns, add_generation_prompt=answer is None)
    if type(processor).__name__ == "IdeficsProcessor":  # pictures stand among the words
        return processor, processor(text=[[PICTURES[number], text]], return_tensors="pt")
    return processor, processor(images=PICTURES[number], text=text, return_tensors="pt")


def test_answers_are_those_of_the_official_generate(kind: str, folder: Path, model: TransformersGenerator) -> None:
    own = type(model._model).from_pretrained(folder).eval()
    mine = model.generate([ask(model, i) for i in range(4)], max_new_tokens=8)
    for number, answer in enumerate(mine):
        processor, inputs = official(folder, own, number)
        length = 0 if kind in {"blip-vqa", "florence-2"} else inputs["input_ids"].shape[1] - (kind == "blip-caption")
        extra = int(kind == "florence-2")  # its forced first token
        inputs.pop("labels", None)
        written = own.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=8 + extra)[0, length:]
        assert answer == processor.tokenizer.decode(written, skip_special_tokens=True).strip()
        assert answer.finished == (3 in written[1 if kind in {"blip-vqa", "florence-2"} else 0 :].tolist())
    assert len(set(mine)) > 1 or kind in {"blip-vqa"}, "the pictures or the questions must matter"


def test_two_pictures_are_read_or_refused_in_words(kind: str, model: TransformersGenerator) -> None:
    demo = (Turn("user", (model.preprocess(PICTURES[0]), "what is this ?")), Turn("assistant", ("cat",)))
    talks = [Conversation((*demo, *ask(model, i).turns)) for i in range(3)]
    if kind.startswith("blip-") and kind != "blip-2":
        with pytest.raises(UsageError, match="reads one picture, and this conversation has 2"):
            model.generate(talks, max_new_tokens=2)
    if model.batcher.several:
        assert len(model.generate(talks, max_new_tokens=2)) == 3


def test_an_answer_does_not_depend_on_the_batch(model: TransformersGenerator) -> None:
    talks = [ask(model, i) for i in range(4)]
    together = model.generate(talks, max_new_tokens=6, log_probs=True)
    for talk, answer in zip(talks, together, strict=True):
        (alone,) = model.generate([talk], max_new_tokens=6, log_probs=True)
        assert alone == answer
        assert alone.log_prob == pytest.approx(answer.log_prob, abs=1e-3)
    answers = [["cat", "a red dog"], ["yes", "no"], ["a a", "blue"], ["no", "yes yes"]]
    both = model.log_likelihood(talks, answers)
    for row, (talk, each) in enumerate(zip(talks, answers, strict=True)):
        for column, answer in enumerate(each):
            torch.testing.assert_close(
                model.log_likelihood([talk], [[answer]])[0, 0], both[row, column], atol=1e-3, rtol=1e-3
            )


def test_conversations_of_several_lengths_are_answered_in_one_pass(
    kind: str, model: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.batcher.pads == (kind not in {"blip-vqa", "florence-2", "kosmos-2", "idefics"})
    if not model.batcher.pads:
        return
    picture = model.preprocess(PICTURES[0])
    texts = ["cat", "what is this and that ?", "is this a red dog", "what is that", "what " * 90]
    talks = [Conversation((Turn("user", (picture, text)),)) for text in texts]
    alone = [model.generate([talk], max_new_tokens=6, log_probs=True)[0] for talk in talks]
    passes: list[int] = []
    plain = model._generate

    def counted(batch: Any, *args: Any, **settings: Any) -> Any:
        passes.extend([] if model.cut.measuring else [len(batch.rows)])
        return plain(batch, *args, **settings)

    monkeypatch.setattr(model, "_generate", counted)
    together = model.generate(talks, max_new_tokens=6, log_probs=True)
    assert passes == [4, 1]  # the last is longer by far
    assert together == alone
    assert [a.log_prob for a in together] == pytest.approx([a.log_prob for a in alone], abs=1e-3)


def test_a_model_that_sees_its_padding_is_not_padded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Batcher._padded

    def seen(self: Any, tokens: Any, start: int, width: int) -> Any:
        return {k: torch.ones_like(v) if k == "attention_mask" else v for k, v in plain(self, tokens, start, width).items()}

    monkeypatch.setattr(Batcher, "_padded", seen)
    assert not load(generators.save("llava", tmp_path)).batcher.pads


def test_likelihoods_are_the_models_own_loss(kind: str, folder: Path, model: TransformersGenerator) -> None:
    """Against the loss that the checkpoint is trained with, over the answer and its end."""
    if kind.startswith("blip-") and kind != "blip-2":
        pytest.skip("its loss smooths the labels")
    own = type(model._model).from_pretrained(folder).eval()
    answer = "a red dog"
    for number in (0, 1):
        processor, inputs = official(
            folder, own, number, answer if kind not in {"paligemma", "blip-2", "florence-2", "kosmos-2", "idefics"} else None
        )
        if kind == "paligemma":
            inputs = processor(images=PICTURES[number], text=QUESTIONS[number], suffix=answer, return_tensors="pt")
        elif kind == "florence-2":
            inputs["labels"] = processor.tokenizer(answer, return_tensors="pt")["input_ids"]
            inputs["labels"][:, 0] = -100  # its forced first token
            inputs["decoder_input_ids"] = torch.tensor([[3, 2, *model.tokenize(answer)]])
        else:
            length = len(model.tokens(ask(model, number)))
            if kind in {"blip-2", "kosmos-2", "idefics"}:
                for name in {"image_embeds_position_mask", "image_attention_mask"} & inputs.keys():  # what is true of the last token
                    inputs[name] = torch.cat([inputs[name], *[inputs[name][:, -1:]] * 4], dim=1)
                more = torch.tensor([[*model.tokenize(answer), 3]])
                inputs["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            labels = inputs["input_ids"].clone()
            labels[:, :length] = -100
            labels[:, length + 4 :] = -100  # three words and </s>; the template may write on
            inputs["labels"] = labels
        expected = -own(**inputs).loss.item() * 4
        (found,) = model.log_likelihood([ask(model, number)], [[answer]], end=True)
        assert float(found[0]) == pytest.approx(expected, abs=2e-3)


def test_pixel_gradients_are_right(kind: str, model: TransformersGenerator) -> None:
    """Against differences: of likelihoods, or where the processor itself sees the picture, in 8 bits, of its inputs in whole steps."""
    assert Needs.PIXEL_GRADIENTS in model.capabilities
    assert model._reader.affine == (kind not in ANY_SIZE)
    picture = model.preprocess(PICTURES[0]) * 0.8 + 0.1
    if not model._reader.affine:  # nothing of it is cut off
        picture = (picture * 0.5 + 0.25).mul(255).round() / 255
    direction = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)).sign()
    step = 2e-3 if model._reader.affine else 20 / 255

    def value(pixels: torch.Tensor) -> torch.Tensor:
        turns = (Turn("user", (pixels, QUESTIONS[0])),)
        if model._reader.affine:
            return model.log_likelihood([Conversation(turns)], [["a red dog"]]).sum()
        seen = model._reader.pictures(turns, CPU)["pixel_values"]
        return (seen * torch.randn(seen.shape, generator=torch.Generator().manual_seed(1))).sum()

    pixels = picture.clone().requires_grad_()
    at = value(pixels)
    at.backward()
    assert pixels.grad is not None
    if not model._reader.affine:  # linear, up to rounding: as steep as can be, so that rounding counts little
        direction = pixels.grad.sign()
    slope = float((pixels.grad * direction).sum())
    with torch.no_grad():
        torch.testing.assert_close(at.detach(), value(picture))
        measured = float(value(picture + step * direction) - value(picture - step * direction)) / (2 * step)
    assert slope == pytest.approx(measured, rel=0.1, abs=0.05)


def test_a_processor_whose_tensors_lead_elsewhere_gives_no_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Qwen2VLImageProcessor

    plain = Qwen2VLImageProcessor.rescale_and_normalize
    folder = generators.save("qwen2-vl", tmp_path)

    def wrong(self: Any, images: torch.Tensor, *args: Any) -> torch.Tensor:
        return plain(self, images.flip(-1) if images.requires_grad else images, *args)

    monkeypatch.setattr(Qwen2VLImageProcessor, "rescale_and_normalize", wrong)
    assert Needs.PIXEL_GRADIENTS not in load(folder).capabilities


def test_what_conversations_begin_with_runs_once(
    kind: str, model: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three demonstrations: the same answers and likelihoods, and their pictures seen once, also by later calls."""
    assert model.batcher.shares_pictures == (kind in SHARING)
    if kind.startswith(ONE_PICTURE):
        return
    demos: list[Turn] = []
    for number, word in enumerate(["cat", "dog", "car"]):
        seen = model.preprocess(PICTURES[number])
        demos += [Turn("user", (seen, "what is this ?")), Turn("assistant", (word,))]
    talks = [Conversation((*demos, *ask(model, i).turns)) for i in range(4)]
    seen_pixels: list[int] = []
    names = ("vision_tower", "vision_model", "visual")
    tower = next(module for name, module in model._model.named_modules() if name.endswith(names))

    def count(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen_pixels.append(
            next(value for value in [*args, *kwargs.values()] if isinstance(value, torch.Tensor)).numel()
        )

    handle = tower.register_forward_pre_hook(count, with_kwargs=True)
    model.batcher._prefixes.clear()
    with_cache = model.generate(talks, max_new_tokens=6, log_probs=True)
    first, seen_pixels[:] = sum(seen_pixels), []
    likely = model.log_likelihood(talks, [["cat", "a red dog"]] * 4)
    second = sum(seen_pixels)
    monkeypatch.setattr(model.batcher, "shares_cache", False)
    seen_pixels.clear()
    plain = model.generate(talks, max_new_tokens=6, log_probs=True)
    everything = sum(seen_pixels)
    assert with_cache == plain
    assert [a.log_prob for a in with_cache] == pytest.approx([a.log_prob for a in plain], abs=1e-3)
    torch.testing.assert_close(likely, model.log_likelihood(talks, [["cat", "a red dog"]] * 4), atol=1e-3, rtol=1e-3)
    handle.remove()
    if kind in SHARING:
        assert second < first < everything
        (alone,) = model.generate(talks[2:3], max_new_tokens=6)
        assert alone == plain[2]


def test_other_pictures_in_the_same_words_are_not_taken_for_the_shared_ones(
    llava: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talks(first: int) -> list[Conversation]:
        demo = (Turn("user", (llava.preprocess(PICTURES[first]), "what is this ?")), Turn("assistant", ("cat",)))
        return [Conversation((*demo, *ask(llava, i).turns)) for i in range(3)]

    answers = [["cat", "a red dog"]] * 3
    one, two = (llava.log_likelihood(talks(i), answers) for i in (0, 3))
    assert not torch.allclose(one, two, atol=1e-2)
    mixed = llava.log_likelihood([talks(0)[0], talks(3)[1], talks(0)[2]], answers)
    monkeypatch.setattr(llava.batcher, "shares_cache", False)
    torch.testing.assert_close(two, llava.log_likelihood(talks(3), answers), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(mixed, torch.stack([one[0], two[1], one[2]]), atol=1e-3, rtol=1e-3)


def test_embeddings_put_in_by_hand(model: TransformersGenerator) -> None:
    """The words' own embeddings change nothing; another word's make it that word."""
    assert Needs.EMBEDDING_GRADIENTS in model.capabilities
    picture = model.preprocess(PICTURES[0])
    cat, dog = (Conversation((Turn("user", (picture, f"is this a {word} ?")),)) for word in ("cat", "dog"))
    slots = model.slots(cat, "cat")
    assert [model.tokens(cat)[slot] for slot in slots] == model.tokenize("cat")
    values = model.token_embeddings(model.tokenize("dog")).clone().requires_grad_()
    found = model.log_likelihood([cat], [["yes", "no no"]], soft=SoftTokens(values, [slots]))
    torch.testing.assert_close(found, model.log_likelihood([dog], [["yes", "no no"]]), atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert values.grad is not None and float(values.grad.abs().max()) > 0


def test_as_many_passes_are_counted_as_operations_are_made(model: TransformersGenerator) -> None:
    """Two answers go on from one reading of the conversation, or where a kind cannot, from two."""
    if Needs.PIXEL_GRADIENTS not in model.capabilities:
        pytest.skip("gives no gradients")

    def operations(answers: list[str]) -> int:
        picture, count = model.preprocess(PICTURES[0]).requires_grad_(), FlopCounterMode(display=False)
        with count:
            model.log_likelihood([Conversation((Turn("user", (picture, QUESTIONS[0])),))], [answers]).sum().backward()
        return int(count.get_total_flops())

    one, two = operations(["a cat"]), operations(["a cat", "the dog"])
    assert model.passes(1) == 1 and model.passes(2) in (1, 2)
    assert 0.7 <= two / (model.passes(2) * one) <= 1.4


def test_attention_goes_to_the_picture(kind: str, model: TransformersGenerator) -> None:
    if kind.startswith(("blip", "florence", "kosmos")) or kind == "idefics":
        assert Needs.ATTENTION not in model.capabilities
        with pytest.raises(CapabilityError):
            model.attention([ask(model, 0)], ["a cat"])
        return
    (weights,) = model.attention([ask(model, 0)], ["a cat"])
    layers, heads, tokens, places = weights.shape
    marks = model.tokens(ask(model, 0)).count(model._reader.image_token_id or -1)
    assert (layers, heads, tokens, places) == (2, 2, 2, marks)
    assert bool((weights >= 0).all()) and float(weights.sum(-1).max()) <= 1.0001
    again = model.generate([ask(model, 0)], max_new_tokens=4)
    assert again == model.generate([ask(model, 0)], max_new_tokens=4), "the fast attention is back in place"


def test_token_log_probs_are_distributions(model: TransformersGenerator) -> None:
    talks = [ask(model, 0), ask(model, 1)]
    tables = model.token_log_probs(talks, ["a red dog", "cat"])
    assert [len(table) for table in tables] == [3, 1]
    torch.testing.assert_close(tables[0].exp().sum(-1), torch.ones(3))
    picked = tables[1][0, model.tokenize("cat")[0]]
    torch.testing.assert_close(picked, model.log_likelihood(talks[1:], [["cat"]])[0, 0], atol=1e-4, rtol=1e-4)


def test_pictures_are_preprocessed_as_the_official_processor_does(
    kind: str, folder: Path, model: TransformersGenerator
) -> None:
    mine = model._reader.pictures(ask(model, 1).turns, CPU)
    _, inputs = official(folder, model._model, 1)
    for name, value in mine.items():
        torch.testing.assert_close(value.float(), inputs[name].float(), atol=1e-4, rtol=1e-4)
    assert "pixel_values" in mine


# --- what can be wrong with a checkpoint ----------------------------------------------------------------------------


def test_answers_are_bounded_and_cleaned() -> None:
    text = clean("\x1b[31mred\x00\u202eevil\n\tfine " + "x" * 10_000, 4)
    assert text.startswith(
        "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}evil\n\tfine"
    )
    assert len(text) == 256


def test_an_answer_that_does_not_stop_says_so(llava: TransformersGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llava, "_ends", set())
    (answer,) = llava.generate([ask(llava, 0)], max_new_tokens=5)
    assert not answer.finished


@pytest.mark.parametrize(
    ("prompt", "written", "said", "why"),
    [
        ("assistant <think>\n", "a dog? no", "", "it thought, and reached no answer"),
        ("assistant <think>\n", "a dog? no </think> cat", "cat", ""),
        ("assistant", "<think> a dog? </think> cat", "cat", ""),
        ("say <think> now assistant", "cat", "cat", ""),
    ],
)
def test_thoughts_are_no_answers(
    prompt: str, written: str, said: str, why: str, llava: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tokens:
        def decode(self, ids: list[int], **settings: bool) -> str:
            return written if settings else prompt

    monkeypatch.setattr(llava, "_tokenizer", Tokens())
    (answer,) = llava.generate([ask(llava, 0)], max_new_tokens=2)
    assert (answer, answer.unread) == (said, why)


def test_a_missing_chat_template_is_an_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generators.llava(tmp_path, chat=None)
    with pytest.raises(ModelError, match="chat template"):
        load(tmp_path)


@pytest.mark.parametrize(
    "template, message",
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "did not end"),
        ("{{ 9**(9**9) }}", "did not end"),
        ("{{ 'x' * (4 * 10**9) }}", "of memory"),
        ("{{ 'x' * 3000000 }}", "characters"),
        ("{{ raise_exception('no system turns here') }}", "no system turns"),
        ("{{ messages.__class__.__mro__ }}", "cannot write"),
    ],
)
def test_hostile_chat_templates(template: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if message == "did not end":
        monkeypatch.setattr("vlaudit.backends.transformers_reader.RENDER_SECONDS", 0.3)
    torch.manual_seed(0)
    generators.llava(tmp_path, chat=template)
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_too_long_a_prompt_and_other_misuse(llava: TransformersGenerator) -> None:
    picture = llava.preprocess(PICTURES[0])
    with pytest.raises(UsageError, match="reads at most 512"):
        llava.generate([Conversation((Turn("user", (picture, "cat " * 600)),))])
    with pytest.raises(UsageError, match="no tokens"):
        llava.log_likelihood([ask(llava, 0)], [[""]])
    with pytest.raises(UsageError, match=r"takes \(3, 24, 24\)"):
        llava.generate([Conversation((Turn("user", (torch.zeros(3, 30, 24), "a")),))])


@pytest.mark.parametrize("matches", [False, True])
def test_weights_that_the_config_has_no_place_for_are_said(matches: bool, tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "model") if matches else generators.llava(tmp_path / "model")
    assert not HuggingFaceBackend().load(str(folder), CPU).remarks
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    (said,) = HuggingFaceBackend().load(str(folder), CPU).remarks
    assert "tensors" in said and "layers.1." in said and "not read" in said


def test_families_are_read_from_the_config(tiny_clip: Path, tmp_path: Path, folder: Path) -> None:
    backend = HuggingFaceBackend()
    assert backend.family(str(tiny_clip)) is Family.MATCHING
    assert backend.family(str(folder)) is Family.GENERATION
    for content in ("[]", "{", "{}", json.dumps({"model_type": "bert"})):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError):
            backend.family(str(tmp_path))
