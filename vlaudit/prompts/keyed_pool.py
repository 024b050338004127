"""L2P, prompt pools with keys (survey section 4.2.2, group-specific): each picture picks its tokens from a pool, and the image tower reads them.

Source: Wang et al. 2021, "Learning to Prompt for Continual Learning" (arXiv:2112.08654). What the frozen tower makes of a picture, its
class token behind the last norm, is compared with a key of each prompt by cosine. The prompts of the nearest keys stand among the
picture's tokens, behind the class token. The tower's own class token is what is matched to texts, as the matcher has it; the published classifier
averages over prompts instead, and its code lets the pictures of a batch vote on their prompts, where here each picture picks its own, as
the paper says.

Each picture costs one pass more, for its query. Gradients in the pixels flow through the tower with the prompts that were picked: which ones
these are changes by jumps alone. A backdoor may be one prompt of the pool, with a key that a trigger calls.

DualPrompt, Wang et al. 2022 (arXiv:2204.04799), puts keys and values before those of the attention of some blocks instead of tokens: the same for
all pictures in the first blocks, and of the nearest key in those that follow.

A pool is read with the names of the published codes, ``prompt`` and ``prompt_key`` (DualPrompt's in ``e_prompt``, beside ``g_prompt``). Labels
are asked with a hard template.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from vlaudit.errors import CapabilityError, UsageError
from vlaudit.families import prefixes
from vlaudit.families.towers import TowerTokens
from vlaudit.files import user_path
from vlaudit.prompts.by_picture import TokensByPicture
from vlaudit.prompts.files import refuse_more, tensor
from vlaudit.prompts.specs import parse_options
from vlaudit.prompts.template import PLAIN
from vlaudit.records import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel

PROMPTS, KEYS, GENERAL = "prompt", "prompt_key", "g_prompt"
OWNERS = re.compile(r"(e_)?prompt\.(?=prompt)")  # modules of the published codes whose tensors these are


class KeyedPool(TokensByPicture):
    """Prompts (P, M, W) in the image tower with keys (P, W), of which each picture picks the ``top`` nearest."""

    method = "pool"
    noun = "prompts"
    first_pick: int | None = None  # the prompt that every picture is taken to pick first
    usual: ClassVar[int] = 5  # prompts that a picture picks, in the published configuration

    def __init__(self, prompts: Tensor, keys: Tensor, *, top: int | None = None, template: str = PLAIN, base_model: str | None = None,
                 members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        count, width = self._shape(prompts)
        if keys.shape != (count, width):
            raise UsageError(
                f"The pool in '{path}' has {count} prompts of width {width} and keys {tuple(keys.shape)}.",
                "Each prompt needs one key of its own width, as L2P's and DualPrompt's have.",
            )
        self.prompts, self.keys, self.top = prompts, keys, min(self.usual, count) if top is None else top
        if not 1 <= self.top <= count:
            raise UsageError(f"The pool in '{path}' has {count} prompts, of which no picture can pick {top}.", f"Write top= from 1 to {count}.")
        super().__init__(template, base_model, members, path)

    @classmethod
    def parse(cls, argument: str) -> KeyedPool:
        """``pool:FILE``, or ``pool:file=FILE,top=5,template=…{}…``: a vlaudit prompt file, or a checkpoint, which does not say how many prompts
        a picture picks."""
        options = parse_options(argument, cls.method, ("file", "top", "template"))
        top = options.get("top")
        if not options.get("file") or (top is not None and not (top.isdecimal() and len(top) < 6)):
            raise UsageError(f"'{argument[:60]}' is no prompt pool.", "Write pool:FILE, or pool:file=FILE,top=5.")
        return cls.load(user_path(options["file"]), top=None if top is None else int(top), template=options.get("template"))

    @classmethod
    def load(cls, path: Path, *, top: int | None = None, template: str | None = None) -> KeyedPool:
        content, ours = cls.content(path)
        content.tensors = {name if ours else OWNERS.sub("", name): value for name, value in content.tensors.items()}
        if ours:
            own, said = content.extra.get("top", ""), content.extra.get("template", PLAIN)
            if not (own.isdecimal() and len(own) < 6) or top not in (None, int(own)) or template not in (None, said):
                raise UsageError(f"'{path}' says top '{own[:10]}' and template '{said[:60]}'.", "Leave top= and template= out, or save it again.")
            top, template = int(own), said
        if PROMPTS in content.tensors and KEYS not in content.tensors:
            raise UsageError(
                f"The pool in '{path}' has no keys (a tensor named '{KEYS}'), so which picture picks which prompt cannot be known.",
                "Save the keys with it; of pools whose keys are the prompts' means, save these.",
            )
        settings: dict[str, Any] = {"top": top, "template": template or PLAIN, "base_model": content.base_model, "members": content.members, "path": path}
        prompts, keys = tensor(content, PROMPTS, (3, 6), path), tensor(content, KEYS, (2,), path)
        if prompts.dim() == 3:
            refuse_more(content.tensors, (PROMPTS, KEYS), path)
            return KeyedPool(prompts, keys, **settings)
        refuse_more(content.tensors, (PROMPTS, KEYS, GENERAL), path)
        general = tensor(content, GENERAL, (5,), path) if GENERAL in content.tensors else None
        return PrefixPool(prompts, keys, general, **settings)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was learned, by name."""
        return {PROMPTS: self.prompts, KEYS: self.keys}

    @property
    def extra(self) -> dict[str, str]:
        return {"top": str(self.top), "template": self._words.template}

    @property
    def width(self) -> int:
        return self.keys.shape[1]

    @staticmethod
    def _shape(prompts: Tensor) -> tuple[int, int]:
        """How many prompts there are, and how wide."""
        return len(prompts), prompts.shape[-1]

    @property
    def text(self) -> str:
        return (
            f"{self.top} of {len(self.prompts)} prompts of {self.prompts.shape[1]} tokens in the image tower, by keys that are nearest to the "
            f"picture, with '{self._words.template}'"
        )

    def apiece(self, texts: int, steps: bool) -> Cost:
        return Cost(queries=1)

    def likeness(self, model: MatchingModel, images: Tensor) -> Tensor:
        """(B, P): cosines of pictures with the keys. No gradient flows to the pixels: it would choose nothing."""
        import torch
        from torch.nn.functional import normalize

        with torch.no_grad():
            queries = class_tokens(model, images)
        return normalize(queries, dim=-1) @ normalize(self.keys.to(queries), dim=-1).T

    def picked(self, model: MatchingModel, images: Tensor) -> Tensor:
        """(B, top): places in the pool of the prompts that pictures pick, the nearest first."""
        likeness = self.likeness(model, images)
        if self.first_pick is not None:
            likeness[:, self.first_pick] = math.inf
        return likeness.topk(self.top, dim=1).indices

    @property
    def pool(self) -> int:
        return len(self.keys) if self.top < len(self.keys) else 0

    def picks(self, model: MatchingModel, images: Tensor) -> Tensor:
        import torch

        return torch.nn.functional.one_hot(self.picked(model, images), len(self.keys)).sum(dim=1).bool()

    def always(self, place: int) -> KeyedPool:
        other = copy(self)
        other.first_pick = place
        return other

    def image_features(self, model: MatchingModel, images: Tensor) -> Tensor:
        return model.encode_images(images, TowerTokens([self.prompts.to(images)[self.picked(model, images)].flatten(1, 2)]))

    @classmethod
    def fit(cls, model: MatchingModel, images: Tensor, targets: Tensor, labels: Sequence[str], *, pool: int = 8, size: int = 2, top: int = 2,
            template: str = PLAIN, pull: float = 0.1, steps: int = 200, batch_size: int = 32, rate: float = 1e-2, seed: int = 0,
            members: Sequence[str] = (), progress: Callable[[int, float], None] | None = None) -> KeyedPool:  # fmt: skip
        """Learn ``pool`` prompts of ``size`` tokens and their keys, with cross-entropy and, by ``pull``, the cosine of pictures with the keys
        that they picked, the model frozen. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; targets: (N,) int64 positions in ``labels``.
        """
        import torch

        generator, width = torch.Generator().manual_seed(seed), model.image_tower.width
        prompts = 0.1 * torch.randn(pool, size, width, generator=generator)
        with torch.no_grad():  # keys begin as queries of pictures, so that all are picked by some
            chosen = torch.randperm(len(images), generator=generator).repeat(-(-pool // len(images)))[:pool]
            keys = class_tokens(model, images[chosen])
        learned = [prompts.to(model.device).requires_grad_(), keys.clone().requires_grad_()]
        prompt = cls(*learned, top=top, template=template, base_model=model.sha256, members=members)
        with torch.no_grad():
            texts = prompt.label_features(model, labels)
        optimizer = torch.optim.Adam(learned, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = images[(order := torch.randperm(len(images), generator=generator)[:batch_size].to(images.device))]
            logits = model.logit_scale * prompt.image_features(model, batch) @ texts.T
            nearest = prompt.likeness(model, batch).topk(top, dim=1).values.sum(dim=1).mean()
            loss = torch.nn.functional.cross_entropy(logits, targets[order]) - pull * nearest
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, float(loss.detach()))
        for value in learned:
            value.requires_grad_(False)
        return prompt


class PrefixPool(KeyedPool):
    """The same with keys and values for the attention of some blocks: ``prompts`` (E, 2, P, M, H, D) for E blocks with H heads, after the
    first G blocks, which read ``general`` (G, 2, M, H, D) for all pictures alike, where there are such."""

    usual = 1

    def __init__(self, prompts: Tensor, keys: Tensor, general: Tensor | None = None, **settings: Any) -> None:
        self.general = general
        super().__init__(prompts, keys, **settings)
        if prompts.shape[1] != 2 or (general is not None and (general.shape[1] != 2 or general.shape[-2:] != prompts.shape[-2:])):
            raise UsageError(
                f"The pool in '{self.path}' has prefixes {tuple(prompts.shape)}{f' and {tuple(general.shape)}' if general is not None else ''}.",
                "DualPrompt's are (E, 2, P, M, H, D) and (G, 2, M, H, D), keys and values of H heads.",
            )
        self.first = 0 if general is None else len(general)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return super().tensors | ({} if self.general is None else {GENERAL: self.general})

    @staticmethod
    def _shape(prompts: Tensor) -> tuple[int, int]:
        return prompts.shape[2], prompts.shape[-2] * prompts.shape[-1]

    @property
    def text(self) -> str:
        blocks = f"blocks {self.first} to {self.first + len(self.prompts) - 1}"
        shared = f", after prefixes for all pictures in {self.first} blocks" if self.first else ""
        return (
            f"{self.top} of {len(self.keys)} prefixes of {self.prompts.shape[3]} keys and values in {blocks} of the image tower, by pool keys that "
            f"are nearest to the picture{shared}, with '{self._words.template}'"
        )

    def check(self, model: MatchingModel) -> None:
        super().check(model)
        tower, needed = model.image_tower, self.first + len(self.prompts)
        if needed > tower.depth:
            raise UsageError(f"The pool in '{self.path}' has prefixes for {needed} blocks, but the image tower of '{model.spec}' has {tower.depth}.")
        if (heads := prefixes.heads(tower.blocks[0])) != self.prompts.shape[-2]:
            raise UsageError(
                f"The pool in '{self.path}' has prefixes for {self.prompts.shape[-2]} heads, but the image tower of '{model.spec}' has {heads}.",
                "They were learned on another model.",
            )

    def image_features(self, model: MatchingModel, images: Tensor) -> Tensor:
        own = self.prompts.to(images)[:, :, self.picked(model, images)]  # (E, 2, B, top, M, H, D)
        layers = list(own.permute(0, 2, 1, 3, 4, 5, 6).flatten(3, 4))
        if self.general is not None:
            layers = [*self.general.to(images)[:, None].expand(-1, len(images), -1, -1, -1, -1), *layers]

        def run(_: slice, part: Tensor, *values: Tensor) -> Tensor:
            with prefixes.carrying(model.image_tower.blocks, values):
                return model._encode_images(part)

        return model.cut("pictures with prefixes", run, images, *layers)

    @classmethod
    def fit(cls, *_: Any, **__: Any) -> KeyedPool:
        raise CapabilityError("Pools of prefixes are read, not learned, here: learn a pool of tokens with KeyedPool.fit.")


def class_tokens(model: MatchingModel, images: Tensor) -> Tensor:
    """(B, W): what the image tower makes of pictures, behind the norm after its last block: the class token, or the mean of all where
    there is none. Raises CapabilityError where the tower is no transformer."""
    import torch

    tower = model.image_tower
    inside = {id(part) for block in tower.blocks for part in block.modules()}
    norms = [part for part in tower.module.modules() if isinstance(part, torch.nn.LayerNorm) and id(part) not in inside]

    def run(_: slice, part: Tensor) -> Tensor:
        after: list[Any] = []

        def last(_module: Any, _args: Any, output: Any) -> None:
            after[:] = [output if isinstance(output, torch.Tensor) else output[0]]

        def normed(_module: Any, args: Any, output: Tensor) -> None:
            if len(after) == 1 and output.shape[-1] == tower.width:
                after.append(output)

        with ExitStack() as stack:
            stack.callback(tower.blocks[-1].register_forward_hook(last).remove)
            for norm in norms:
                stack.callback(norm.register_forward_hook(normed).remove)
            model._encode_images(part)
        found = after[-1].float()
        return found if found.dim() == 2 else found[:, 0] if tower.lead else found.mean(dim=1)

    return model.cut("queries of a pool", run, images)
