"""TPT (survey section 4.2.2, instance-specific): a text context that is tuned anew on each picture, before the picture is named.

Source: Shu et al. 2022, "Test-Time Prompt Tuning for Zero-Shot Generalization in Vision-Language Models" (arXiv:2209.07511). The picture is
seen as 64 views: itself, and crops that are resized and mirrored at random. Of the views, the tenth whose answers have least entropy is
kept, and one step of AdamW on the context lowers the entropy of their mean answer. The tuned context then names the picture
itself. The context starts as the words "a photo of a", or as one that CoOp learned. Each picture costs as many pictures as there are
views, and for each label a text forward and backward and another forward.

**An attack must adapt.** A picture that is crafted against the context before it is tuned is no attack on what answers. Here each step
of an attack tunes the context anew, on the pixels as they are then. The gradient takes that context as given, and loses nothing by it: the
first step of AdamW from rest moves each number of the context by the rate in the direction of its slope's sign, whatever its size, so
that how the context depends on the pixels is flat almost everywhere. Where signs or the kept views change it jumps, which no gradient
tells; attacks without gradients (the last stage of ``clip-autoattack``) see it.

The crops are drawn by ``seed`` and are the same for all pictures, so that trials repeat. Deployed, they are drawn anew each time; the attack
knows them here, and ``tpt:seed=1`` asks whether a verdict hangs on them. Views are cut from the picture as the model reads it, where the
published code cuts them from the file, and AugMix, which that code adds for fine-grained sets, is not used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.files import user_path
from vlaudit.prompts.cocoop import encode_contexts
from vlaudit.prompts.coop import OFFICIAL, CoOp
from vlaudit.prompts.specs import parse_options
from vlaudit.records import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel

WORDS = "a photo of a"
OPTIONS = ("file", "init", "views", "select", "rate", "seed")
DECAY, SLACK = 0.01, 1e-8  # weight decay and epsilon of AdamW
MOST_VIEWS = 1024


class TPT(MatchingPrompt):
    """A text context that is tuned on each picture before it is named. ``start``: a CoOp prompt to begin with, or None for the words
    ``init``; ``views``: of a picture, itself among them; ``select``: the share of them that is kept; ``rate``: of the step."""

    method = "tpt"
    per_picture = True

    def __init__(self, start: CoOp | None = None, *, init: str = WORDS, views: int = 64, select: float = 0.1, rate: float = 5e-3,
                 seed: int = 0) -> None:  # fmt: skip
        if start is not None and start.ctx.dim() != 2:
            raise UsageError(f"The context in '{start.path}' has a row for each label; TPT tunes one that all share.")
        self.start, self.init, self.views, self.select, self.rate, self.seed = start, init, views, select, rate, seed
        self.kept = max(1, int(views * select))
        self.learned = start is not None  # type: ignore[misc]
        self.path = start.path if start else None
        self.members = start.members if start else ()
        self.id = f"tpt-{views}" + (f"-{start.path.stem}" if start and start.path else "")

    @classmethod
    def parse(cls, argument: str) -> TPT:
        """``tpt:``, ``tpt:FILE`` with a context of CoOp to begin with, or ``tpt:file=FILE,init=a photo of a,views=64,select=0.1,rate=0.005,seed=0``,
        each optional; ``init`` are words to begin with in the place of a file."""
        options = parse_options(argument, cls.method, OPTIONS)
        if options.get("file") and "init" in options:
            raise UsageError("TPT begins with a file or with words, and both are given.", "Leave out file= or init=.")
        start = CoOp.load(user_path(options["file"]), any_labels=True) if options.get("file") else None
        words = options.get("init", WORDS).replace("_", " ").strip()
        if not words or "{" in words:
            raise UsageError(f"TPT cannot begin with '{words[:40]}'.", f"Write words alone, such as init={WORDS}; the label follows them.")
        return cls(
            start, init=words, views=int(_number(options, "views", 64, 2, MOST_VIEWS, whole=True)), select=_number(options, "select", 0.1, 0, 1),
            rate=_number(options, "rate", 5e-3, 0, 1), seed=int(_number(options, "seed", 0, 0, 2**31, whole=True)),
        )  # fmt: skip

    @property
    def text(self) -> str:
        begins = self.start.text if self.start else f"the words '{self.init}', then the label and a full stop"
        return (
            f"{begins}, tuned on each picture by one step of {self.rate:g} on the {self.kept} most certain of {self.views} views (seed {self.seed})"
        )

    @property
    def context(self) -> Tensor | None:
        return self.ctx

    @property
    def ctx(self) -> Tensor | None:
        """The learned context that it begins with, if there is one."""
        return self.start.ctx if self.start else None

    @ctx.setter
    def ctx(self, value: Tensor) -> None:
        self.start = copy.copy(self.start)
        assert self.start is not None
        self.start.ctx = value

    def check(self, model: MatchingModel) -> None:
        self._begun(model).check(model)

    def check_labels(self, model: MatchingModel, labels: Sequence[str]) -> None:
        self._begun(model).check_labels(model, labels)

    def token_count(self, model: MatchingModel, label: str) -> int:
        return self._begun(model).token_count(model, label)

    def apiece(self, texts: int, steps: bool) -> Cost:
        return Cost(queries=self.views - 1 + 2 * texts, texts=2 * texts, gradient_steps=texts, text_steps=texts)

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return self._begun(model).label_features(model, labels)

    def seen(self, model: MatchingModel, images: Tensor) -> Tensor:
        import torch

        with torch.no_grad():  # the views only choose the context, which takes no slope on
            views = [self.image_features(model, view) for view in views_of(images, self.views - 1, self.seed)]
        return torch.stack([self.image_features(model, images), *views], dim=1)

    def features_for(self, model: MatchingModel, labels: Sequence[str], seen: Tensor) -> Tensor:
        import torch

        contexts = self.tuned(model, labels, seen)
        with torch.no_grad():
            return encode_contexts(self._begun(model), model, labels, contexts)

    def tuned(self, model: MatchingModel, labels: Sequence[str], seen: Tensor) -> Tensor:
        """Contexts (B, M, W) after the step, for the features (B, V, D) of the views."""
        import torch

        begun, seen = self._begun(model), seen.detach()
        with torch.enable_grad():
            contexts = begun.ctx.to(seen).expand(len(seen), -1, -1).clone().requires_grad_()
            said = (model.logit_scale * seen @ encode_contexts(begun, model, labels, contexts).mT).log_softmax(dim=-1)
            entropy = -(said * said.exp()).sum(dim=-1)
            kept = entropy.argsort(dim=1)[:, : self.kept, None].expand(-1, -1, len(labels))
            mean = said.gather(1, kept).logsumexp(dim=1) - math.log(self.kept)
            (slope,) = torch.autograd.grad(-(mean * mean.exp()).sum(), contexts)
        return contexts.detach() * (1 - self.rate * DECAY) - self.rate * slope / (slope.abs() + SLACK)

    def _begun(self, model: MatchingModel) -> CoOp:
        """What it begins with, as a context on this model."""
        if self.start is not None:
            return self.start
        plain = model.tokenize(self.init)
        words = model.token_embeddings(plain.ids[plain.lead : len(plain.ids) - plain.tail]).detach()
        return CoOp(words, label_style=OFFICIAL)


def views_of(images: Tensor, count: int, seed: int) -> list[Tensor]:
    """Random views of pictures (B, 3, S, S), each the same cut of all of them: 8 % of the area and more, resized, half of them mirrored."""
    from torchvision.transforms.functional import resized_crop

    side = images.shape[-1]
    cuts = _cuts(side, count, seed)
    views = [resized_crop(images, *cut, [side, side], antialias=True) for cut, _ in cuts]
    return [view.flip(-1) if mirrored else view for view, (_, mirrored) in zip(views, cuts, strict=True)]


@lru_cache(maxsize=8)
def _cuts(side: int, count: int, seed: int) -> list[tuple[tuple[int, int, int, int], bool]]:
    """Top, left, height and width of each view, and whether it is mirrored."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blank = torch.zeros(3, side, side)
        return [
            (RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]), bool(torch.rand(()) < 0.5)) for _ in range(count)
        ]


def _number(options: dict[str, str], key: str, default: float, least: float, most: float, whole: bool = False) -> float:
    text = options.get(key, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (least <= value <= most and (value > 0 or whole) and (not whole or value == int(value))):
        kind = "whole number" if whole else "number"
        raise UsageError(f"'{key}={text[:40]}' is no {kind} from {least:g} to {most:g}.", f"Write for example {key}={default:g}.")
    return value
