"""What a generation checkpoint's own processor and chat template make of a conversation.

Two ways in which pictures enter. Where the processor's map from pixels at the input size is the same scale and shift for
every picture (measured, at load), pictures are floats at that size and gradients pass through. Otherwise (tiles, sizes
that vary) pictures stay at their own size and the processor itself sees them, as 8-bit pictures. Its way for tensors is then
how gradients pass, where it leads to the same (measured too): the values stay those of the 8-bit picture, as people send it,
and rounding passes gradients straight through (Bengio et al. 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from vlaudit.cage import Stopped
from vlaudit.cage.cell import Cell
from vlaudit.errors import ModelError, UsageError, first_line
from vlaudit.families.generation import ChatTemplates, Conversation, Turn

if TYPE_CHECKING:
    from torch import Tensor

PIXELS = "pixel_values"
PLACE = "\ue000"  # where a picture stands in a text that a processor takes in pieces
RENDER_SECONDS = 5.0
RENDER_LENGTH = 2_000_000  # characters
ROUNDING = 3.0  # steps of 8 bits by which a processor that resizes more than once may round
FOREIGN = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    AssertionError,
    StopIteration,
)
"""What other people's processors and models raise at input they are not made for."""
T = TypeVar("T")


class Recent(OrderedDict[Any, Any]):
    """The values made last, at most ``size`` of them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_or(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        while len(self) > self.size:
            self.popitem(last=False)
        return self[key]


class Reader:
    """Turns conversations into a model's inputs, each alone (batch size 1); the same kinds can then be stacked."""

    def __init__(self, spec: str, processor: Any, config: Any) -> None:
        self.spec, self._processor = spec, processor
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        image_token = getattr(config, "image_token_id", None)
        self.image_token_id: int | None = (
            image_token if image_token is not None else getattr(config, "image_token_index", None)
        )
        self.has_template = bool(getattr(processor, "chat_template", None))
        self._nested, self._in_pieces = True, False
        self._made, self._answers, self._asked = Recent(1024), Recent(16384), Recent(64)
        self._rendered = Recent(4096)
        self._template = Cell(self._apply_template, RENDER_SECONDS)
        self._check_template()
        self._measure_pictures()

    # --- texts ----------------------------------------------------------------------------------------------------

    def render(self, turns: Sequence[Turn], ask: bool = True) -> str:
        """The text of the turns with a mark for each picture; ``ask``: up to where the answer begins."""
        if not self.has_template:
            return plain_text(turns, ask, PLACE if self._in_pieces else "")
        key = (ask, *((turn.role, *(part if isinstance(part, str) else None for part in turn.parts)) for turn in turns))
        return self._rendered.get_or(key, lambda: self._render(turns, ask))

    def _render(self, turns: Sequence[Turn], ask: bool) -> str:
        messages = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                    for part in turn.parts
                ],
            }
            for turn in turns
        ]
        try:
            return str(self._template(messages, ask))
        except Stopped as error:
            raise ModelError(
                f"The chat template of '{self.spec}' {error.message}.",
                "It may do so on purpose: do not use this model before you have read its template.",
            ) from error
        except RuntimeError as error:
            raise ModelError(
                f"The chat template of '{self.spec}' cannot write this conversation: {first_line(error)}.",
                "Use a prompt without the turn it refuses (a system turn, demonstrations), or mend the template.",
            ) from error

    def _apply_template(self, messages: list[dict[str, Any]], ask: bool) -> str:
        """The template's text. It is a program of whoever made the model: it runs in a cell."""
        text = self._processor.apply_chat_template(messages, add_generation_prompt=ask, tokenize=False)
        if len(text) > RENDER_LENGTH:
            raise ValueError(f"it writes {len(text):,} characters for a short text")
        return str(text)

    def chat_templates(self) -> ChatTemplates:
        """The processor's templates, and the tokenizer's where they are others."""
        sources: dict[str, str] = {}
        for part, whose in ((self._processor, "chat template"), (self.tokenizer, "chat template of the tokenizer")):
            own = getattr(part, "chat_template", None) or {}
            for name, source in own.items() if isinstance(own, dict) else [("default", own)]:
                if isinstance(source, str) and source and source not in sources.values():
                    sources[whose if name == "default" else f"{whose} '{name}'"] = source
        return ChatTemplates(sources, {name: str(text) for name, text in self.tokenizer.special_tokens_map.items() if isinstance(text, str)})

    def texts(self, turns: Sequence[Turn], ask: bool = True) -> dict[str, Tensor]:
        """``input_ids`` (1, L) and the other tensors with a value for each token."""
        text = self.render(turns, ask)
        sizes = [self.size if self.affine else (p.shape[1], p.shape[2]) for p in pictures_of(turns)]
        return self._inputs(text, sizes)[0]

    def _inputs(self, text: str, sizes: Sequence[tuple[int, int]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the processor makes of a text with pictures of these (height, width): for each token, and for pictures,
        without their pixels."""

        def make() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            tokens, rest = self._split(self._official(text, [Image.new("RGB", (w, h)) for h, w in sizes]))
            return tokens, {name: value for name, value in rest.items() if name != PIXELS}

        return self._made.get_or((text, tuple(sizes)), make)

    def answer_ids(self, conversation: Conversation, answer: str) -> list[int]:
        """The tokens of an answer where it stands, after the conversation."""
        # the entry holds the conversation, so that its id is nobody else's
        _, before = self._asked.get_or(id(conversation), lambda: (conversation, self.render(conversation.turns)))
        return self._answers.get_or((before[-40:], answer), lambda: self._answer_ids(conversation, before, answer))

    def _answer_ids(self, conversation: Conversation, before: str, answer: str) -> list[int]:
        whole = self.render((*conversation.turns, Turn("assistant", (answer,))), ask=False)
        lead = ""
        if self.has_template and whole.startswith(before) and answer:
            lead = whole[len(before) :].partition(answer)[0] if answer in whole[len(before) :] else ""
        elif not self.has_template:
            last = self.texts(conversation.turns)["input_ids"][0, -1]
            lead = "" if last in self.tokenizer.all_special_ids or self.tokenizer.decode(last)[-1:].isspace() else " "
        anchor = before[-40:]
        known = self.tokenizer(anchor, add_special_tokens=False)["input_ids"]
        joint = self.tokenizer(anchor + lead + answer, add_special_tokens=False)["input_ids"]
        if joint[: len(known)] == known and len(joint) > len(known):
            return list(joint[len(known) :])
        return list(self.tokenizer(lead + answer, add_special_tokens=False)["input_ids"])

    def _check_template(self) -> None:
        if self.tokenizer is None:
            raise ModelError(f"'{self.spec}' ships no tokenizer.", "Save its whole processor with save_pretrained.")
        if self.has_template:
            return
        try:  # Flamingo's kind reads pictures where they stand among the words
            self._in_pieces = PIXELS in self._processor(text=[[Image.new("RGB", (64, 64)), "a"]], return_tensors="pt")
        except FOREIGN:
            self._in_pieces = False
        if self._in_pieces:
            return
        ids = None
        for self._nested in (True, False):
            try:
                ids = self._official("a", [Image.new("RGB", (64, 64))])["input_ids"]
                break
            except FOREIGN:
                pass
        places = getattr(self._processor, "image_token", None) is not None
        if ids is None or (places and self.image_token_id is not None and self.image_token_id not in ids):
            raise ModelError(
                f"'{self.spec}' ships no chat template, and its processor needs one to place pictures.",
                "Save its processor with its chat_template (chat_template.jinja) into the same folder.",
            )

    # --- pictures -------------------------------------------------------------------------------------------------

    def preprocess(self, picture: Image.Image) -> Tensor:
        """(3, H, W) in [0, 1]: at the input size where the processor is affine there, else at the picture's own."""
        from torchvision.transforms.functional import to_tensor

        if not self.affine:
            return to_tensor(picture)
        official = self._official(self.render(_showing(1)), [picture])[PIXELS].reshape(3, *self.size).float()
        return ((official - self._black) / self._range).clamp(0, 1)

    def pictures(self, turns: Sequence[Turn], device: Any) -> dict[str, Tensor]:
        """The inputs that the pictures of these turns become; differentiable where ``differentiable`` says so."""
        import torch

        shown = pictures_of(turns)
        if not shown:
            return self._split(self._official(self.render(turns), []))[1] if self._in_pieces else {}
        if not self.affine:
            text = self.render(turns)
            inputs = self._split(self._official(text, [_to_pil(picture) for picture in shown]))[1]
            if self.differentiable and torch.is_grad_enabled() and any(picture.requires_grad for picture in shown):
                way = self._official(text, [picture.cpu() * 255 for picture in shown])[PIXELS]
                inputs[PIXELS] = inputs[PIXELS] + (way - way.detach())
            return inputs
        wrong = [picture for picture in shown if tuple(picture.shape) != (3, *self.size)]
        if wrong:
            raise UsageError(
                f"A picture is {tuple(wrong[0].shape)}; '{self.spec}' takes (3, {self.size[0]}, {self.size[1]})."
            )
        pixels = torch.stack([picture.to(device) for picture in shown])
        pixels = pixels * self._range.to(device) + self._black.to(device)
        extras = self._inputs(self.render(turns), [self.size] * len(shown))[1] if self._extras else {}
        return {**extras, PIXELS: pixels if self._dims == 4 else pixels[None]}

    def _measure_pictures(self) -> None:
        """Is the processor, at its input size, one scale and shift for each channel, whatever the picture?"""
        import torch

        self.affine, self.size, self._dims = True, (64, 64), 0
        text = self.render(_showing(1))
        try:
            seen = [self._split(self._official(text, [noise(*size)]))[1] for size in ((97, 61), (130, 211), (64, 64))]
        except FOREIGN as error:
            raise ModelError(
                f"The processor of '{self.spec}' cannot read a text with a picture: {first_line(error)}.",
                "Save the processor that belongs to this model with save_pretrained.",
            ) from error
        first, rest = seen[0], seen[1:]
        pixels = first.get(PIXELS)
        fixed = (
            pixels is not None and pixels.dim() in (4, 5) and pixels.numel() == 3 * pixels.shape[-1] * pixels.shape[-2]
        )
        fixed = fixed and all(
            set(other) == set(first)
            and all(
                other[k].shape == v.shape and (k == PIXELS or bool((other[k] == v).all())) for k, v in first.items()
            )
            for other in rest
        )
        if not fixed:
            self.affine, self.differentiable = False, self._leads_through_tensors(text)
            return
        assert pixels is not None
        self._extras = set(first) != {PIXELS}
        self.size, self._dims = (int(pixels.shape[-2]), int(pixels.shape[-1])), pixels.dim()

        def shown(picture: Image.Image) -> Tensor:
            return self._official(text, [picture])[PIXELS].reshape(3, *self.size).float()

        black, white = (shown(Image.new("RGB", self.size[::-1], shade))[:, :1, :1] for shade in ("black", "white"))
        self._black, self._range = black, white - black
        for seed in (1, 2):
            picture = noise(*self.size[::-1], seed=seed)
            mine = to_unit(picture) * self._range + self._black
            if not torch.allclose(shown(picture), mine, atol=1e-4 * float(self._range.abs().max())):
                self.affine = False
        self.differentiable = self.affine or self._leads_through_tensors(text)

    def _leads_through_tensors(self, text: str) -> bool:
        """Does the processor make of a float tensor what it makes of the same 8-bit picture, up to rounding, with a gradient?"""
        import torch

        try:
            dark, light = (self._official(text, [Image.new("RGB", (64, 64), c)])[PIXELS] for c in ("black", "white"))
            for size in ((97, 61), (130, 211)):
                faint = noise(*size).point(lambda value: 64 + value // 2)  # resizing overshoots, and 8 bits cut that off
                pixels = to_unit(faint).requires_grad_()
                with torch.enable_grad():
                    mine = self._official(text, [pixels * 255])[PIXELS]
                theirs = self._official(text, [faint])[PIXELS]
                if mine.shape != theirs.shape or not mine.requires_grad:
                    return False
                if float((mine.detach() - theirs).abs().max()) > ROUNDING / 255 * float(light.max() - dark.min()):
                    return False
        except FOREIGN:
            return False
        return True

    def _official(self, text: str, pictures: Sequence[Image.Image] | Sequence[Tensor]) -> dict[str, Tensor]:
        """The processor's own call."""
        more: dict[str, Any] = {}
        start = self.tokenizer.bos_token
        if self.has_template and start is not None and text.startswith(start):
            more["add_special_tokens"] = False  # as its apply_chat_template does: the template has written them
        if self._in_pieces:
            first, *rest = text.split(PLACE)
            pieces = [first, *(piece for pair in zip(pictures, rest, strict=True) for piece in pair)]
            inputs = self._processor(text=[[piece for piece in pieces if not isinstance(piece, str) or piece]], return_tensors="pt")
            return {name: value for name, value in inputs.items() if hasattr(value, "shape")}
        images = None if not pictures else [list(pictures)] if self._nested else list(pictures)
        inputs = self._processor(text=[text], images=images, return_tensors="pt", **more)
        return {name: value for name, value in inputs.items() if hasattr(value, "shape") and name != "labels"}

    @staticmethod
    def _split(inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Into what has a value for each token, and the rest."""
        shape = inputs["input_ids"].shape
        per_token = {k: v for k, v in inputs.items() if v.shape == shape and not v.is_floating_point()}
        return per_token, {k: v for k, v in inputs.items() if k not in per_token}


def plain_text(turns: Sequence[Turn], ask: bool = True, place: str = "") -> str:
    """The texts of a conversation for a model without a chat template: a line a turn, answers behind their questions. ``place``: what
    stands for a picture."""
    lines: list[str] = []
    for turn in turns:
        said = [part.replace(PLACE, "") if isinstance(part, str) else place for part in turn.parts if isinstance(part, str) or place]
        text = " ".join(said)
        if turn.role == "assistant" and lines:
            lines[-1] += f" {text}"
        else:
            lines.append(text)
    return "\n".join(lines) + ("" if ask else "\n")


def pictures_of(turns: Sequence[Turn]) -> list[Tensor]:
    return [part for turn in turns for part in turn.parts if not isinstance(part, str)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A random picture."""
    import numpy as np

    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def to_unit(picture: Image.Image) -> Tensor:
    from torchvision.transforms.functional import to_tensor

    return to_tensor(picture)


def _to_pil(picture: Tensor) -> Image.Image:
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(picture.detach().clamp(0, 1).mul(255).round().byte().cpu())


def _showing(count: int) -> list[Turn]:
    """A turn with so many pictures, whose pixels are not looked at."""
    import torch

    return [Turn("user", (*[torch.zeros(3, 64, 64)] * count, "a"))]
