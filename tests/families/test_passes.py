"""Passes that are cut to what fits: the same results and gradients in parts, sizes that follow from what is measured, and less
after memory ran out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import generators, tiny_pipelines
from tests.backends.test_generation import ask
from tests.backends.test_generation import load as load_generator
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.cage import memory
from vlaudit.errors import OutOfMemory
from vlaudit.families import passes
from vlaudit.families.generation import LearnedPrefix
from vlaudit.families.matching import MatchingModel, SoftTokens
from vlaudit.families.passes import Cut
from vlaudit.families.text_to_image import TextToImageGenerator
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family

torch.set_num_threads(1)
CPU = torch.device("cpu")


class Counted:
    """A small network that notes how many examples pass at once."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.GELU(), torch.nn.Linear(40, 3)).requires_grad_(False)
        self.sizes: list[int] = []

    def __call__(self, _: slice, first: Tensor, second: Tensor) -> Tensor:
        self.sizes.append(len(first))
        return self.layers(first + second)


def cut(most: int | None = None) -> Cut:
    made = Cut(CPU, "a model")
    made.most = most
    return made


def pair(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(count, 6, generator=generator), torch.randn(6, generator=generator)
    return first.requires_grad_(), second.requires_grad_()


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "UNMEASURED", 100)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_parts_give_the_results_and_gradients_of_the_whole(most: int) -> None:
    run, weights = Counted(), torch.arange(21.0).view(7, 3)
    (first, second), (mine, shared) = pair(), pair()
    whole = run.layers(first + second)
    (whole * weights).sum().backward()
    run.sizes.clear()
    parts = cut(most)("k", run, mine, shared.expand(7, -1))
    assert max(run.sizes) <= most and sum(run.sizes) == 7
    (parts * weights).sum().backward()
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mine.grad, first.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.grad, second.grad, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(cut(most)("k", run, first, second.expand(7, -1)), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("unmeasured")
def test_the_last_part_keeps_its_graph_and_the_others_pass_twice() -> None:
    run, (first, second) = Counted(), pair()
    out = cut(3)("k", run, first, second.expand(7, -1))
    assert run.sizes == [2, 2, 3]
    out.sum().backward()
    assert run.sizes[3:] == [2, 2]


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(("most", "passed"), [(None, [4, 3]), (6, [4, 3, 4]), (2, [2, 2, 1, 2, 1, 2, 2])])
def test_graphs_that_do_not_fit_beside_each_other_are_not_kept(most: int | None, passed: list[int]) -> None:
    """Of two passes that one backward pass goes through, the first leaves no graph where both do not fit."""
    run, (first, second), (mine, shared), sizes = Counted(), pair(), pair(), cut(most)
    run.layers(first + second).square().sum().backward()
    parts = [sizes("k", run, mine[rows], shared.expand(7, -1)[rows], following=more) for rows, more in ((slice(4), 3), (slice(4, 7), 0))]
    torch.cat(parts).square().sum().backward()
    assert run.sizes == passed
    torch.testing.assert_close(mine.grad, first.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.grad, second.grad, rtol=1e-5, atol=1e-4)


def test_what_fits_passes_once_and_to_the_bit() -> None:
    run, (first, second), (mine, shared) = Counted(), pair(), pair()
    sizes = cut()
    sizes("k", run, mine, shared.expand(7, -1))  # is measured
    run.sizes.clear()
    found = torch.autograd.grad(sizes("k", run, mine, shared.expand(7, -1)).square().sum(), [mine, shared])
    assert run.sizes == [7]
    plain = torch.autograd.grad(run.layers(first + second).square().sum(), [first, second])
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_several_outputs_lists_and_nothing_at_all() -> None:
    run, (first, _) = Counted(), pair()

    def several(_: slice, part: Tensor) -> tuple[Tensor, Tensor]:
        scores = run.layers(part)
        return scores, scores.argmax(1)

    scores, best = cut(2)("k", several, first)
    assert scores.requires_grad and not best.requires_grad and best.tolist() == run.layers(first).argmax(1).tolist()
    scores[:, 0].sum().backward()
    assert first.grad is not None and bool(first.grad.abs().sum() > 0)
    assert cut(2)("k", lambda rows: list("abcde")[rows], count=5) == list("abcde")
    assert cut(2)("k", lambda rows: list("abcde")[rows], count=0) == []
    assert cut(2)("k", lambda _, part: run.layers(part), first[:0]).shape == (0, 3)


def test_an_input_that_was_changed_before_backward_is_an_error() -> None:
    run, (first, second) = Counted(), pair()
    moved = first * 1
    out = cut(2)("k", run, moved, second.expand(7, -1))
    moved.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many bytes be left."""
    monkeypatch.setattr(passes, "SMALL", 0)
    return lambda left: monkeypatch.setattr(memory, "room", lambda: int(left))


@pytest.mark.parametrize("grad", [True, False])
def test_the_first_size_follows_from_what_one_example_takes(short: Callable[[float], None], grad: bool) -> None:
    run, (first, second), sizes = Counted(), pair(64), cut()
    short(5_000 / passes.SHARE)
    with torch.set_grad_enabled(grad):
        sizes("k", run, first, second.expand(64, -1))
    one = 6 * sizes._costs["k", grad, 3].each
    hidden = 4 * 40
    assert 2 * hidden <= one <= (4 if grad else 3) * hidden
    assert run.sizes[:2] == [1, 2], "one example is measured, then two"
    assert 0.7 * 5_000 / one <= run.sizes[-1] <= 5_000 / one


def test_more_room_later_is_used(short: Callable[[float], None]) -> None:
    run, (first, second), sizes = Counted(), pair(64), cut()
    with torch.no_grad():
        for left, least, most in ((4_000, 1, 16), (1e9, 64, 64)):
            short(left)
            run.sizes.clear()
            sizes("k", run, first, second.expand(64, -1))
            assert least <= run.sizes[-1] <= most


@pytest.mark.parametrize(("before", "after"), [(9_000, 2_000), (2_000, 9_000), (1e9, 2_000)])
def test_room_may_change_between_the_passes(short: Callable[[float], None], before: float, after: float) -> None:
    run, (first, second), (mine, shared), sizes = Counted(), pair(24), pair(24), cut()
    run.layers(first + second).square().sum().backward()
    short(before)
    out = sizes("k", run, mine, shared.expand(24, -1))
    short(after)
    out.square().sum().backward()
    torch.testing.assert_close(mine.grad, first.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.grad, second.grad, rtol=1e-5, atol=1e-4)


def test_longer_examples_are_measured_anew_and_shorter_ones_take_less(short: Callable[[float], None]) -> None:
    short(40_000)
    sizes, largest = cut(), dict[int, int]()
    for length in (8, 15, 64):
        seen: list[int] = []

        def run(_: slice, part: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(len(part))
            return (part[..., None] * torch.ones(16)).sum(-1)

        with torch.no_grad():
            sizes("k", run, torch.rand(100, length))
        largest[length] = max(seen)
    assert largest[8] > largest[15] > largest[64] >= 1
    assert len(sizes._costs) == 2, "8 and 15 are of one kind"


class Hungry(Counted):
    """Runs out of memory with more than ``most`` examples, forward or, where ``late``, in the backward pass."""

    def __init__(self, most: int, late: bool = False, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.most, self.late, self.error = most, late, error

    def __call__(self, rows: slice, first: Tensor, second: Tensor) -> Tensor:
        out = super().__call__(rows, first, second)
        if len(first) > self.most and not self.late:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        if self.late and out.requires_grad:
            out.register_hook(self.slope)
        return out

    def slope(self, gradient: Tensor) -> None:
        if len(gradient) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize("late", [False, True])
def test_a_part_is_halved_within_the_pass_and_the_size_remembered(late: bool, error: type[Exception]) -> None:
    run, (first, second), (mine, shared), sizes = Hungry(3, late, error), pair(16), pair(16), cut()
    run.layers(first + second).square().sum().backward()
    sizes("k", run, mine, shared.expand(16, -1)).square().sum().backward()
    torch.testing.assert_close(mine.grad, first.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shared.grad, second.grad, rtol=1e-5, atol=1e-4)
    run.sizes.clear()
    sizes("k", run, mine, shared.expand(16, -1)).square().sum().backward()
    assert run.sizes and (max(run.sizes) <= 3 or late)
    assert sizes._halved["k", True, (6).bit_length()][0] == 2


def test_what_runs_out_while_it_is_measured_begins_with_one() -> None:
    run, (first, second), sizes = Hungry(1), pair(16), cut()
    with torch.no_grad():
        sizes("k", run, first, second.expand(16, -1))
        assert run.sizes == [1, 2, *[1] * 16]
        run.most = 100
        for _ in range(passes.HELD):
            sizes("k", run, first, second.expand(16, -1))
    assert max(run.sizes) == 16


def test_a_size_that_was_halved_grows_again() -> None:
    run, (first, second), sizes = Hungry(3), pair(16), cut()
    with torch.no_grad():
        sizes("k", run, first, second.expand(16, -1))
        run.most = 100
        for _ in range(passes.HELD):
            sizes("k", run, first, second.expand(16, -1))
        run.sizes.clear()
        sizes("k", run, first, second.expand(16, -1))
    assert run.sizes == [16]


def test_one_example_that_does_not_fit_is_said_with_the_cure() -> None:
    run, (first, second) = Hungry(0, late=True), pair()
    with pytest.raises(OutOfMemory, match=r"'a model' ran out of memory with a single example \(k and their gradients\).*--dtype"):
        cut()("k", run, first, second.expand(7, -1)).sum().backward()
    assert OutOfMemory("").exit_code == 4


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(KeyError, match="odd"):
        cut()("k", lambda _, part: {}["odd"], torch.rand(9, 2))


def test_what_is_cheaper_is_tried_before_a_single_example_fails(short: Callable[[float], None]) -> None:
    width, asked = [1000], list[str]()

    def run(_: slice, part: Tensor) -> Tensor:
        return (part[:, None] + torch.zeros(width[0])).sum(1)

    def thrift() -> bool:
        asked.append("tiles")
        width[0] = 10
        return True

    short(2_000)
    with torch.no_grad():
        sizes = cut()
        sizes("k", run, torch.rand(16), thrift=thrift)
    assert asked == ["tiles"] and sizes._costs["k", False, 1].each < 1000


def test_room_is_the_least_of_what_bounds_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free", lambda: 8_000)
    monkeypatch.setattr(memory, "_unreserved", lambda: 1 << 62)
    assert memory.room() == 8_000
    monkeypatch.setattr(memory, "sharers", 4)
    assert memory.room() == 2_000
    monkeypatch.setattr(memory, "_unreserved", lambda: 500)
    assert memory.room() == 500
    monkeypatch.setattr(memory, "_unreserved", lambda: 1 << 62)
    monkeypatch.setattr(memory, "_ceiling", (memory.resident(1) + 10_000_000_000, 1))
    monkeypatch.setattr(memory, "family", lambda pid: [pid])
    monkeypatch.setattr(memory, "free", lambda: 1 << 62)
    assert memory.room() == 2_500_000_000


# --- the families -----------------------------------------------------------------------------------------------------


@contextmanager
def at_most(model: Any, most: int | None) -> Iterator[None]:
    model.cut.most = most
    try:
        yield
    finally:
        model.cut.most = None


def both(model: Any, ask: Callable[[], tuple[Any, ...]], most: int = 2) -> None:
    """The same outputs and gradients, whole and in parts."""
    whole = ask()
    with at_most(model, most):
        parts = ask()
    for a, b in zip(whole, parts, strict=True):
        assert bool(a.abs().max() > 0)
        torch.testing.assert_close(b, a, rtol=2e-4, atol=1e-5 * float(a.abs().max()))


@pytest.fixture(scope="module")
def matcher(tiny_clip: Path) -> MatchingModel:
    model = HuggingFaceBackend().load(str(tiny_clip), CPU)
    assert isinstance(model, MatchingModel)
    return model


def test_pictures_and_soft_tokens_of_a_matcher(matcher: MatchingModel) -> None:
    images = torch.rand(5, 3, matcher.resolution, matcher.resolution, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def pictures() -> tuple[Tensor, ...]:
        features = matcher.encode_images(images)
        return features.detach(), *torch.autograd.grad(features[:, :3].sum(), images)

    both(matcher, pictures)
    texts = [matcher.tokenize(text) for text in ("a photo of a cat", "dog", "a cat", "a photo of a dog")]
    values = matcher.token_embeddings(texts[0].ids[1:2]).detach().clone().requires_grad_()
    own = values.detach()[None].repeat(4, 1, 1).requires_grad_()

    def learned(given: Tensor) -> tuple[Tensor, ...]:
        features = matcher.encode_tokens(texts, SoftTokens(given, [[1]] * 4))
        return features.detach(), *torch.autograd.grad(features[:, :3].sum(), given)

    both(matcher, lambda: learned(values), 3)
    both(matcher, lambda: learned(own), 1)


@pytest.fixture(scope="module", params=["llava", "blip-2", "florence-2"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersGenerator:
    return load_generator(generators.save(request.param, tmp_path_factory.mktemp(request.param)))


def test_likelihoods_of_a_generator_with_gradients_of_pixels_and_soft_tokens(generator: TransformersGenerator) -> None:
    talks = [ask(generator, i % 4) for i in range(5)]
    pixels = torch.stack([talk.pictures[0] for talk in talks]).requires_grad_()
    shown = [type(talk)((type(talk.turns[0])("user", (image, talk.turns[0].parts[1])),)) for talk, image in zip(talks, pixels, strict=True)]
    slots = [generator.slots(talk, str(talk.turns[0].parts[1]))[:1] for talk in talks]
    values = generator.token_embeddings([generator.tokens(talk)[slot[0]] for talk, slot in zip(talks, slots, strict=True)])
    values = values.detach()[:, None].clone().requires_grad_()
    answers = [["yes", "no it is"]] * 5

    def likely() -> tuple[Tensor, ...]:
        scores = generator.log_likelihood(shown, answers, soft=SoftTokens(values, slots), end=True)
        return scores.detach(), *torch.autograd.grad(scores[:, 1].sum(), [pixels, values])

    def tables() -> tuple[Tensor, ...]:
        first = torch.stack([table[0] for table in generator.token_log_probs(shown, ["yes"] * 5)])
        return first.detach(), *torch.autograd.grad(first[:, 3].sum(), pixels)

    for most in (1, 2):
        both(generator, likely, most)
    both(generator, tables)


def test_answers_of_a_generator(generator: TransformersGenerator) -> None:
    talks = [ask(generator, i % 4) for i in range(6)]
    whole = generator.generate(talks, max_new_tokens=6, log_probs=True)
    with at_most(generator, 1):
        parts = generator.generate(talks, max_new_tokens=6, log_probs=True)
    assert parts == whole
    assert [a.log_prob for a in parts] == pytest.approx([a.log_prob for a in whole], rel=1e-3)


def test_a_learned_prefix_that_all_share_gets_its_gradients_in_one_piece(tmp_path: Path) -> None:
    model = load_generator(generators.save("llava", tmp_path))
    given = model.keys_values(model.tokenize("what is this")).requires_grad_()
    talks = [type(talk)(talk.turns, LearnedPrefix(keys_values=given)) for talk in (ask(model, i) for i in range(4))]

    def learned() -> tuple[Tensor, ...]:
        scores = model.log_likelihood(talks, [["yes"]] * 4)
        return scores.detach(), *torch.autograd.grad(scores.sum(), given)

    both(model, learned)


@pytest.fixture(scope="module", params=["sdxl", "flux"])
def painter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return DiffusersBackend().load(str(getattr(tiny_pipelines, request.param)(tmp_path_factory.mktemp(request.param))), CPU)


def bound(model: Any, spec: str) -> TextToImageGenerator:
    target = parse_prompt(spec, Family.TEXT_TO_IMAGE).bind(model)
    assert isinstance(target, TextToImageGenerator)
    return target


CAPTIONS = ["a red cat", "the big dog", "a bird", "a small blue cat", "a dog"]


def test_a_pipelines_texts_predictions_and_codes(painter: Any) -> None:
    target, t = bound(painter, "a photo of {}"), painter.sampling_timesteps(4)[1]
    embeddings = target.token_embeddings(CAPTIONS).detach().requires_grad_()
    latents = painter.noise(range(5)).requires_grad_()

    def read() -> tuple[Tensor, ...]:
        features = target.text_features(CAPTIONS, embeddings)
        return features.detach(), *torch.autograd.grad(features[:, :3].sum(), embeddings)

    def denoised() -> tuple[Tensor, ...]:
        prediction = target.denoise(latents, t, target.encode(CAPTIONS, embeddings=embeddings))
        return prediction.detach(), *torch.autograd.grad(prediction.square().sum(), [latents, embeddings])

    def coded() -> tuple[Tensor, ...]:
        images = torch.rand(5, 3, painter.resolution, painter.resolution, generator=torch.Generator().manual_seed(0)).requires_grad_()
        found = painter.encode_images(images)
        return found.detach(), *torch.autograd.grad(found.square().sum(), images), painter.decode(found.detach())

    for asked in (read, denoised, coded) if painter.denoiser_name == "unet" else (denoised, coded):
        both(painter, asked)


def test_pictures_are_drawn_alike_in_parts_and_counted_once(painter: Any) -> None:
    target = bound(painter, "a photo of {}")
    target.generate(CAPTIONS, range(5), steps=2)  # is measured
    before = target.meter.queries
    whole = target.generate(CAPTIONS, range(5), steps=2)
    spent = target.meter.queries - before
    assert spent == 5 * 2 * (2 if painter.guided else 1)
    with at_most(painter, 2):
        parts = target.generate(CAPTIONS, range(5), steps=2)
    assert target.meter.queries - before == 2 * spent
    torch.testing.assert_close(parts.images, whole.images, rtol=1e-3, atol=1e-4)
    assert parts.blocked == whole.blocked == [False] * 5


@pytest.mark.parametrize("spec", ["a photo of {}", "prompt-to-prompt:edit=a big {},source=a {}"])
def test_what_a_prompt_opens_is_open_in_the_backward_pass_too(spec: str, tmp_path: Path) -> None:
    model: Any = DiffusersBackend().load(str(tiny_pipelines.stable_diffusion(tmp_path)), CPU)
    target = bound(model, spec)
    latents, t = model.noise(range(5)).requires_grad_(), model.sampling_timesteps(4)[1]

    def denoised() -> tuple[Tensor, ...]:
        prediction = target.denoise(latents, t, CAPTIONS)
        return prediction.detach(), *torch.autograd.grad(prediction.square().sum(), latents)

    both(model, denoised)
    parts: list[Tensor] = []
    for most in (None, 2):
        with at_most(model, most):
            parts.append(target.generate(CAPTIONS, range(5), steps=2).images)
    torch.testing.assert_close(parts[1], parts[0], rtol=1e-3, atol=1e-4)


def test_the_first_measured_counts_no_passes(tmp_path: Path) -> None:
    model: Any = DiffusersBackend().load(str(tiny_pipelines.stable_diffusion(tmp_path)), CPU)
    target = bound(model, "{}")
    target.denoise(model.noise(range(5)), model.sampling_timesteps(4)[0], CAPTIONS)
    assert target.meter.queries == 5
