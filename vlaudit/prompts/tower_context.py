"""What methods have in common that learn a text context and tokens inside the towers: MaPLe, IVLP, PromptSRC, MVLPT and UPT.

A checkpoint of the published code holds the whole model: the tensors of the method, and the frozen towers. These are held against the
model that the prompt is bound to, weight by weight, so that what is audited is what the checkpoint is. What its code asks is asked: where a
context of M vectors began as the words "a photo of a", the words after the first M follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlaudit.errors import UsageError
from vlaudit.files import user_path
from vlaudit.prompts.coop import AROUND, CLOSE, PLAIN, CoOp, refuse_others, state_tensors
from vlaudit.prompts.files import PromptFile, refuse_more, tensor
from vlaudit.prompts.learning import learn
from vlaudit.prompts.specs import parse_options

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Generator, Tensor

    from vlaudit.families.matching import MatchingModel, SoftTokens, TokenSequence
    from vlaudit.families.towers import Tower, TowerTokens

FROZEN = ("image_encoder.", "text_encoder.", "logit_scale")  # names that the frozen model has in the published checkpoints
MOST_INIT = 4  # vectors up to which a context begins as words, in the published code


class TowerContext(CoOp):
    """``ctx`` (M, W), and ``parts``: the method's other tensors, by their names in the published code.

    ``init``: the words that the context began as; those after the first M follow it. None: the published ones, if the file does not tell.
    ``towers``: the frozen weights beside them in a checkpoint.
    """

    learns_anew = False  # a shadow prompt would pass every picture at every step
    options: ClassVar[tuple[str, ...]] = ("file", "init", "labels")
    begun: ClassVar[str] = "a photo of a"  # the words that a context begins as by the published settings
    drift: ClassVar[float] = 1e-3  # relative difference of frozen weights to the model's: that of half precision

    def __init__(self, ctx: Tensor, parts: Mapping[str, Tensor], *, init: str | None = None, towers: Mapping[str, Tensor] | None = None,
                 **settings: Any) -> None:  # fmt: skip
        super().__init__(ctx, **settings)
        self.parts, self.init, self._towers = dict(parts), init, dict(towers or {})

    # --- what a method says ------------------------------------------------------------------------------------------

    @classmethod
    def names(cls, given: Iterable[str]) -> list[str]:
        """The names of all parts that the method has where these names are given: it has as many layers as they say."""
        raise NotImplementedError

    def deeper(self) -> list[Tensor]:
        """Tokens (M, W) that take the context's places at block 1, 2, … of the text tower."""
        return []

    def image_tokens(self, model: MatchingModel) -> TowerTokens | None:
        raise NotImplementedError

    # --- files -------------------------------------------------------------------------------------------------------

    @classmethod
    def parse(cls, argument: str) -> Self:
        """``METHOD:FILE``, or ``METHOD:file=FILE,init=a photo of a,labels=any``: a vlaudit prompt file, or a checkpoint of the published
        code. ``init``: the words that the context began as, where they are not the published ones; ``labels=any`` for other labels than
        those that it was learned on."""
        options = parse_options(argument, cls.method, cls.options)
        if options.get("labels", "any") != "any":
            raise UsageError(f"The prompt '{cls.method}' cannot take 'labels={options['labels']}'.", "Write labels=any, or nothing.")
        if not options.get("file"):
            raise UsageError(f"The prompt '{cls.method}' needs its file.", f"Write {cls.method}:FILE.")
        prompt = cls.load(user_path(options["file"]), position=options.get("position"), any_labels="labels" in options)
        prompt.init = options.get("init", prompt.init)
        return prompt

    @classmethod
    def _refuse_more(cls, names: Iterable[str], path: Path) -> None:
        refuse_more(names, ("ctx", *cls.names(names)), path)

    @classmethod
    def _state(cls, path: Path) -> dict[str, Tensor]:
        tensors = {name: value for name, value in state_tensors(path).items() if not cls._unused(name)}
        parts = cls.names(tensors)
        frozen = [name for name in tensors if name.startswith(FROZEN) and name not in parts and not name.split(".")[-1].startswith("VPT")]
        refuse_others(tensors, cls.title, ("ctx", *parts, *AROUND, *frozen), path)
        return tensors

    @classmethod
    def _unused(cls, name: str) -> bool:
        """Whether a tensor of a checkpoint only served to learn the prompt."""
        return False

    @classmethod
    def _more(cls, content: PromptFile, path: Path) -> dict[str, Any]:
        names = cls.names(content.tensors)
        if lacking := [name for name in names if name not in content.tensors]:
            raise UsageError(
                f"'{path}' lacks {len(lacking)} of {cls.title}'s tensors, such as '{lacking[0]}'.",
                "Give the checkpoint as the training code saved it, or the prompt file as save() wrote it.",
            )
        towers = {
            name: value for name, value in content.tensors.items() if name.startswith(FROZEN) and name not in names
        }
        parts = {name: tensor(content, name, (1, 2, 3), path) for name in names}
        return {"parts": parts, "towers": towers, "init": content.extra.get("init")}

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {"ctx": self.ctx, **self.parts}

    @property
    def _extra(self) -> dict[str, str]:
        return super()._extra | ({} if self.init is None else {"init": self.init})

    # --- what is asked -----------------------------------------------------------------------------------------------

    def _between(self, model: MatchingModel) -> list[int]:
        """The tokens between context and class name."""
        return self._words(model, self.init or "")

    def _words(self, model: MatchingModel, init: str) -> list[int]:
        plain = model.tokenize(init)
        return plain.ids[plain.lead : len(plain.ids) - plain.tail][self.ctx.shape[-2] :] if init else []

    def _parts(self, model: MatchingModel, label: str) -> tuple[list[int], list[int], list[int]]:
        name, rest, tail = super()._parts(model, label)
        return [*self._between(model), *name], rest, tail

    def tokens(
        self, model: MatchingModel, labels: Sequence[str], ctx: Tensor
    ) -> tuple[list[TokenSequence], SoftTokens]:
        sequences, soft = super().tokens(model, labels, ctx)
        return sequences, replace(soft, deeper=[values.to(model.device) for values in self.deeper()])

    def check(self, model: MatchingModel) -> None:
        super().check(model)
        if self.init is None:
            size = self.ctx.shape[-2]
            words = self._words(model, self.begun) if self.label_style != PLAIN and size <= MOST_INIT else []
            told = self._suffix[:, : len(words)] if self._suffix is not None else None
            if told is not None and words:
                wanted = self._embeddings(model, words)
                same = told.shape[1] == len(words) and bool(((told - wanted).norm(dim=-1) <= CLOSE * wanted.norm(dim=-1)).all())
                words = words if same else []
            self.init = self.begun if words else ""
        if deeper := self.deeper():
            check_fit(self.path, model.text_tower, f"text tower of '{model.spec}'", [self.ctx, *deeper])
        if tokens := self.image_tokens(model):
            check_fit(self.path, model.image_tower, f"image tower of '{model.spec}'", tokens.given)
        if self._towers:
            check_frozen(self.path, model, self._towers, self.drift)
            self.base_model, self._towers = model.sha256, {}

    # --- learning ----------------------------------------------------------------------------------------------------

    @classmethod
    def start(cls, model: MatchingModel, ctx: Tensor, generator: Generator, **shape: Any) -> dict[str, Tensor]:
        """The method's other tensors before they are learned."""
        raise NotImplementedError

    @classmethod
    def fit(cls, model: MatchingModel, images: Tensor, targets: Tensor, labels: Sequence[str], *, size: int = 2,  # type: ignore[override]
            steps: int = 200, batch_size: int = 16, rate: float = 2e-3, seed: int = 0, init: str = "a photo of a",
            members: Sequence[str] = (), label_style: str = PLAIN, progress: Callable[[int, float], None] | None = None,
            **shape: Any) -> Self:  # fmt: skip
        """Learn the prompt with cross-entropy, the model frozen. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; targets: (N,) int64 positions in ``labels``; size: context vectors M; init: the words whose first M
        embeddings begin the context, and whose others follow it. ``shape``: what the method's ``start`` takes.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        ctx = cls.first_context(model, (size,), init, generator)
        parts = cls.start(model, ctx, generator, **shape)
        prompt = cls(ctx, parts, init=init, label_style=label_style, base_model=model.sha256, members=members)
        prompt.check(model)
        more = prompt.regularised(model, images, labels)
        learn(prompt, prompt.tensors.values(), model, images, targets, list(labels), steps=steps, batch_size=batch_size, rate=rate,
              generator=generator, more=more, progress=progress)  # fmt: skip
        return prompt

    def regularised(self, model: MatchingModel, images: Tensor, labels: Sequence[str]) -> Any:
        """What the method's loss has beside the cross-entropy."""
        return None


def noise(generator: Generator, *shape: int) -> Tensor:
    """Gaussian of standard deviation 0.02, as the published code begins with."""
    import torch

    return 0.02 * torch.randn(shape, generator=generator)


def linear(generator: Generator, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Weight and bias as torch's linear layers begin."""
    import torch

    reach = inputs**-0.5
    weight, bias = (reach * (2 * torch.rand(shape, generator=generator) - 1) for shape in ((outputs, inputs), (outputs,)))
    return weight, bias


def layers_among(names: Iterable[str], before: str, after: str = "") -> int:
    """The number after the largest that stands between the two parts of a name; 0 where there is none."""
    found = [name[len(before) : len(name) - len(after)] for name in names if name.startswith(before) and name.endswith(after)]
    return max((int(number) + 1 for number in found if number.isdecimal() and len(number) < 4), default=0)


def check_fit(path: Path | None, tower: Tower, what: str, layers: Sequence[Tensor]) -> None:
    """Raise UsageError for tokens of more blocks, or of another width, than a tower has."""
    width = layers[0].shape[-1]
    if len(layers) > tower.depth or width != tower.width:
        raise UsageError(
            f"The tokens in '{path}' are for {len(layers)} blocks and {width} wide, but the {what} has {tower.depth} blocks, {tower.width} wide.",
            "They were learned on another model.",
        )


def check_frozen(path: Path | None, model: MatchingModel, towers: Mapping[str, Tensor], drift: float) -> None:
    """Raise UsageError where the frozen weights of a checkpoint are not those of the model."""
    if strange := model.strange_weights(towers, drift):
        raise UsageError(
            f"The towers in '{path}' are not those of '{model.spec}': {len(strange)} of {len(towers)} tensors differ, such as '{strange[0]}'.",
            "Name the model that it was learned on. If the checkpoint changes the towers, it is another model, and no prompt of this one.",
        )
