"""VPT, visual prompt tuning (survey section 4.3, patch-wise): learned tokens among those of the image tower, shallow or deep.

Source: Jia et al. 2022, "Visual Prompt Tuning" (arXiv:2203.12119). Shallow: tokens stand behind the class token at the first block. Deep: at
each further block, others take their place. Labels are asked with a hard template beside it.

Files of the authors' code are read (tokens alone, or with a projection of them to the tower's width; a classifier's head is refused, since a
matcher compares with texts), of MVLPT's code, whose text is "a photo of a hot dog.", and of MaPLe's, whose tokens stand behind the patches
and pass the tower's first norm, and whose frozen towers are held against the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.files import user_path
from vlaudit.prompts import template as words
from vlaudit.prompts.coop import AROUND, OFFICIAL, PLAIN, is_checkpoint, refuse_others, state_tensors
from vlaudit.prompts.files import PromptFile, check_base_model, read_prompt_file, refuse_more, tensor, write_prompt_file
from vlaudit.prompts.ivlp import AFTER, BLOCKS, FIRST
from vlaudit.prompts.learning import learn
from vlaudit.prompts.specs import parse_options
from vlaudit.prompts.tower_context import FROZEN, check_fit, check_frozen, layers_among, noise

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel
    from vlaudit.families.towers import TowerTokens

SHALLOW, DEEP, PROJECTION = "prompt_embeddings", "deep_prompt_embeddings", ("prompt_proj.weight", "prompt_proj.bias")
OWN = (SHALLOW, DEEP, *PROJECTION)
NAMES = {  # what other code calls the same
    "shallow_prompt": SHALLOW, "deep_prompt": DEEP, "vpt_embeddings": SHALLOW, "vpt_embeddings_deep": DEEP,
    "vpt_proj.weight": PROJECTION[0], "vpt_proj.bias": PROJECTION[1],
}  # fmt: skip
SAID = "a photo of a {}."  # by the code that learns them on a matcher
PLACES = ("class", "end")


class VisualPromptTuning(MatchingPrompt):
    """Learned tokens in the image tower, shallow or deep.

    ``tensors``: ``prompt_embeddings`` (1, M, P), with ``deep_prompt_embeddings`` (L - 1, M, P) of the next blocks, and with ``prompt_proj``
    (V, P) and (V,) where P is not the tower's width V.

    place: ``class``, behind the class token; ``end``, behind the patches and through the tower's first norm. label_style: as CoOp's."""

    method = "vpt"
    learned = True

    def __init__(self, tensors: Mapping[str, Tensor], *, template: str = words.PLAIN, label_style: str = PLAIN, place: str = "class",
                 towers: Mapping[str, Tensor] | None = None, base_model: str | None = None, members: Sequence[str] = (),
                 path: Path | None = None) -> None:  # fmt: skip
        if place not in PLACES or label_style not in (PLAIN, OFFICIAL):
            raise UsageError(f"The place '{place}' or the label_style '{label_style}' of VPT is unknown.",
                             f"Known: {', '.join(PLACES)}; {PLAIN}, {OFFICIAL}.")  # fmt: skip
        self.tensors = dict(tensors)
        self._words = words.Template(template)
        self.label_style, self.place = label_style, place
        self.base_model = base_model
        self.members = list(members)
        self.path = path
        self.id = f"vpt-{path.stem}" if path else "vpt"
        self._towers = dict(towers or {})
        first, deep = self.tensors[SHALLOW], self.tensors.get(DEEP)
        weight, bias = (self.tensors.get(name) for name in PROJECTION)
        fitting = deep is None or deep.shape[1:] == first.shape[1:]
        if weight is not None and bias is not None:
            fitting = fitting and (weight.shape, bias.shape) == ((len(bias), first.shape[-1]), (len(bias),))
        if len(first) != 1 or not fitting or (weight is None) != (bias is None):
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.tensors.items())
            raise UsageError(f"The tensors in '{path}' do not fit together as VPT's do: {shapes}.",
                             "It is another method's file, or was changed after training.")  # fmt: skip

    @classmethod
    def parse(cls, argument: str) -> VisualPromptTuning:
        """``vpt:FILE`` or ``vpt:file=FILE,template=a photo of a {}``: a vlaudit prompt file, or a file of the published code."""
        options = parse_options(argument, cls.method, ("file", "template"))
        if not options.get("file"):
            raise UsageError("The prompt 'vpt' needs its file.", "Write vpt:FILE, or vpt:file=FILE,template=a photo of a {}.")
        prompt = cls.load(user_path(options["file"]))
        if "template" in options:
            prompt._words = words.Template(options["template"])
        return prompt

    @classmethod
    def load(cls, path: Path) -> VisualPromptTuning:
        if is_checkpoint(path):
            return cls._from_checkpoint(path)
        content = read_prompt_file(path, cls.method)
        refuse_more(content.tensors, OWN, path)
        return cls(
            _checked(content, path), template=content.extra.get("template", words.PLAIN),
            label_style=content.extra.get("label_style", PLAIN), place=content.extra.get("place", "class"),
            base_model=content.base_model, members=content.members, path=path,
        )  # fmt: skip

    @classmethod
    def _from_checkpoint(cls, path: Path) -> VisualPromptTuning:
        import torch

        state = {name.removeprefix("enc.transformer."): value for name, value in state_tensors(path).items()}
        if head := next((name for name in state if name.startswith("head.")), None):
            raise UsageError(
                f"'{path}' holds the head of a classifier ('{head}'), and a matcher compares with texts.",
                "Give the tokens alone, of a prompt that was learned on a matcher.",
            )
        place, said, towers = "class", False, {}
        if FIRST in state and "ctx" not in state and not layers_among(state, BLOCKS["text"], AFTER):  # of MaPLe's code
            layers = [FIRST, *(f"{BLOCKS['image']}{number}{AFTER}" for number in range(1, layers_among(state, BLOCKS["image"], AFTER)))]
            if lacking := [name for name in layers if name not in state]:
                raise UsageError(f"'{path}' lacks '{lacking[0]}'.", "Give the checkpoint as the training code saved it.")
            content = PromptFile(cls.method, state)
            tokens = [tensor(content, name, (2,), path) for name in layers]
            if len({tuple(own.shape) for own in tokens}) != 1:
                raise UsageError(f"The tokens of the blocks in '{path}' are not all of one shape.", "It is another method's file.")
            towers = {name: value for name, value in state.items() if name.startswith(FROZEN) and name not in layers}
            state = {name: value for name, value in state.items() if name not in towers and name not in layers}
            state |= {SHALLOW: tokens[0][None]} | ({DEEP: torch.stack(tokens[1:])} if tokens[1:] else {})
            place, said = "end", True
        elif "ctx" not in state and "vpt_embeddings" in state:  # of MVLPT's code
            said = True
            state = {NAMES.get(name, name): value for name, value in state.items()}
        else:
            state = {name if name.startswith("vpt_") else NAMES.get(name, name): value for name, value in state.items()}
        refuse_others(state, "VPT", (*OWN, *AROUND), path, needs=SHALLOW)
        return cls(
            _checked(PromptFile(cls.method, state), path), template=SAID if said else words.PLAIN, label_style=OFFICIAL if said else PLAIN,
            place=place, towers=towers, path=path,
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write a vlaudit prompt file."""
        extra = {"template": self._words.template, "label_style": self.label_style, "place": self.place}
        write_prompt_file(path, PromptFile(self.method, self.tensors, base_model=self.base_model, members=self.members, extra=extra))

    @property
    def text(self) -> str:
        blocks = 1 + len(self.tensors.get(DEEP, ()))
        deep = f"in each of the first {blocks} blocks" if blocks > 1 else "at the first block"
        return f"{self.tensors[SHALLOW].shape[1]} learned tokens {deep} of the image tower, with '{self._words.template}'"

    @property
    def templates(self) -> tuple[str, ...]:
        return self._words.templates

    def fill(self, template: str, label: str) -> str:
        return super().fill(template, label.replace("_", " ") if self.label_style == OFFICIAL else label)

    def check(self, model: MatchingModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        check_fit(self.path, model.image_tower, f"image tower of '{model.spec}'", self.image_tokens(model).given)
        if self._towers:
            check_frozen(self.path, model, self._towers, 1e-3)
            self.base_model, self._towers = model.sha256, {}

    def image_tokens(self, model: MatchingModel) -> TowerTokens:
        from torch.nn.functional import linear

        from vlaudit.families.towers import TowerTokens

        layers = [layer for name in (SHALLOW, DEEP) if name in self.tensors for layer in self.tensors[name]]
        if PROJECTION[0] in self.tensors:
            layers = [linear(layer, *(self.tensors[name] for name in PROJECTION)) for layer in layers]
        return TowerTokens(layers, first=self.place == "class", normed=self.place == "end")

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return model.encode_texts([self.fill(self._words.template, label) for label in labels])

    @classmethod
    def fit(cls, model: MatchingModel, images: Tensor, targets: Tensor, labels: Sequence[str], *, size: int = 4, depth: int = 1,
            template: str = words.PLAIN, steps: int = 200, batch_size: int = 16, rate: float = 2e-3, seed: int = 0,
            members: Sequence[str] = (), progress: Callable[[int, float], None] | None = None) -> VisualPromptTuning:  # fmt: skip
        """Learn ``size`` tokens at each of the first ``depth`` blocks with cross-entropy, the model frozen. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; targets: (N,) int64 positions in ``labels``.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        width = model.image_tower.width
        tensors = {SHALLOW: noise(generator, 1, size, width).to(model.device)}
        if depth > 1:
            tensors[DEEP] = noise(generator, depth - 1, size, width).to(model.device)
        prompt = cls(tensors, template=template, base_model=model.sha256, members=members)
        prompt.check(model)
        learn(prompt, tensors.values(), model, images, targets, list(labels), steps=steps, batch_size=batch_size, rate=rate,
              generator=generator, progress=progress)  # fmt: skip
        return prompt


def _checked(content: PromptFile, path: Path) -> dict[str, Tensor]:
    tokens = {name: tensor(content, name, (3,), path) for name in (SHALLOW, DEEP) if name == SHALLOW or name in content.tensors}
    return tokens | {name: tensor(content, name, (1, 2), path) for name in PROJECTION if name in content.tensors}
