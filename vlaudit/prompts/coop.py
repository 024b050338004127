"""CoOp (survey section 4.2.2): a learned text context, one for all labels or one for each.

Source: Zhou et al. 2021, "Learning to Prompt for Vision-Language Models" (arXiv:2109.01134). The context vectors stand
where the template's words would: after the start token (``class_token_position = end``, CoOp's default), before the
end token (``front``), or half on each side of the class name (``middle``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.files import load_torch_checkpoint
from vlaudit.prompts.base import MatchingPrompt
from vlaudit.prompts.files import PromptFile, check_base_model, read_prompt_file, tensor, write_prompt_file

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel, SoftTokens, TokenSequence

POSITIONS = ("end", "middle", "front")


class CoOp(MatchingPrompt):
    """A learned context ``ctx``: (M, W), or (C, M, W) with one row for each label of ``labels``, in that order."""

    method = "coop"
    learned = True

    def __init__(self, ctx: Tensor, *, position: str = "end", labels: Sequence[str] | None = None,
                 base_model: str | None = None, members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        if position not in POSITIONS:
            raise UsageError(f"CoOp's class_token_position '{position}' is unknown.", f"Known: {', '.join(POSITIONS)}.")
        self.ctx = ctx
        self.position = position
        self.labels = list(labels) if labels else None
        self.base_model = base_model
        self.members = list(members)
        self.path = path
        self.id = f"coop-{path.stem}" if path else "coop"

    @classmethod
    def parse(cls, argument: str) -> CoOp:
        """``coop:FILE``: a vlaudit prompt file, or a CoOp/Dassl checkpoint (``.pth``, ``.pth.tar``, ``.pt``)."""
        return cls.load(Path(argument))

    @classmethod
    def load(cls, path: Path) -> CoOp:
        if path.suffix in {".pth", ".tar", ".pt", ".pth-tar"} or ".pth" in path.name:
            return cls._from_dassl(path)
        content = read_prompt_file(path, cls.method)
        return cls(
            tensor(content, "ctx", (2, 3), path),
            position=content.class_token_position or "end",
            labels=_lines(content.extra.get("labels")),
            base_model=content.base_model,
            members=content.members,
            path=path,
        )

    @classmethod
    def _from_dassl(cls, path: Path) -> CoOp:
        """A checkpoint of the official CoOp code: ``state_dict`` with ``ctx``; its other entries are the base model's."""
        if not path.is_file():
            raise UsageError(f"The prompt file '{path}' does not exist.", "Check the path after 'coop:'.")
        checkpoint = load_torch_checkpoint(path)
        state: dict[str, Any] = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else {}
        found = [value for name, value in state.items() if name == "ctx" or name.endswith("prompt_learner.ctx")]
        if len(found) != 1:
            raise UsageError(f"'{path}' holds no CoOp context (a tensor named 'ctx').", "See docs/prompt-files.md.")
        return cls(tensor(PromptFile("coop", {"ctx": found[0]}), "ctx", (2, 3), path), path=path)

    def save(self, path: Path) -> None:
        """Write a vlaudit prompt file."""
        extra = {"labels": "\n".join(self.labels)} if self.labels else {}
        content = PromptFile(
            self.method, {"ctx": self.ctx}, base_model=self.base_model, class_token_position=self.position,
            members=self.members, extra=extra,
        )  # fmt: skip
        write_prompt_file(path, content)

    @property
    def text(self) -> str:
        kind = "class-specific" if self.ctx.dim() == 3 else "shared"
        return f"{self.ctx.shape[-2]} {kind} learned context vectors, class name at the {self.position}"

    @property
    def context(self) -> Tensor:
        return self.ctx

    def check(self, model: MatchingModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        if self.ctx.shape[-1] != model.embedding_width:
            raise UsageError(
                f"The context in '{self.path}' is {self.ctx.shape[-1]} wide, but the token embeddings of '{model.spec}' "
                f"are {model.embedding_width} wide.",
                "It was learned on another model.",
            )
        if self.ctx.shape[-2] + 3 > model.context_length:
            raise UsageError(
                f"The context in '{self.path}' has {self.ctx.shape[-2]} vectors; '{model.spec}' reads at most "
                f"{model.context_length} tokens."
            )

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return model.encode_tokens(*self.tokens(model, labels, self._rows(labels)))

    def _rows(self, labels: Sequence[str]) -> Tensor:
        """The context for these labels: the shared one, or the labels' own rows."""
        if self.ctx.dim() == 2:
            return self.ctx
        known = self.labels or list(labels)
        if len(known) != len(self.ctx) or not set(labels) <= set(known):
            raise UsageError(
                f"The class-specific context in '{self.path}' has {len(self.ctx)} rows, one for each label it was learned "
                f"on; these labels differ from them.",
                "Give the same labels in the same order with --labels.",
            )
        return self.ctx[[known.index(label) for label in labels]]

    def tokens(
        self, model: MatchingModel, labels: Sequence[str], ctx: Tensor
    ) -> tuple[list[TokenSequence], SoftTokens]:
        """Token sequences with room for the context, and the soft tokens that fill it."""
        from vlaudit.families.matching import SoftTokens, TokenSequence

        size = ctx.shape[-2]
        before = {"end": size, "middle": size // 2, "front": 0}[self.position]
        sequences, slots = [], []
        for label in labels:
            plain = model.tokenize(label)
            end = len(plain.ids) - plain.tail
            name = plain.ids[plain.lead : end]
            room = model.context_length - size - plain.lead - plain.tail
            name = name[: max(room, 1)]
            filler = name[:1]  # an ordinary token: pooling by end token or by largest id must not find it
            ids = [*plain.ids[: plain.lead], *filler * before, *name, *filler * (size - before), *plain.ids[end:]]
            sequences.append(TokenSequence(ids, plain.lead, plain.tail))
            first, second = plain.lead, plain.lead + before + len(name)
            slots.append([*range(first, first + before), *range(second, second + size - before)])
        return sequences, SoftTokens(ctx.to(model.device), slots)

    @classmethod
    def fit(cls, model: MatchingModel, features: Tensor, targets: Tensor, labels: Sequence[str], *, size: int = 4,
            class_specific: bool = False, steps: int = 200, batch_size: int = 64, rate: float = 2e-2, seed: int = 0,
            position: str = "end", init: str | None = "a photo of a", members: Sequence[str] = (),
            progress: Callable[[int, float], None] | None = None) -> CoOp:  # fmt: skip
        """Learn a context with cross-entropy on few labelled pictures, the model frozen.

        features: (N, D) unit-norm image features; targets: (N,) int64 positions in ``labels``; ``init``: words whose
        embeddings start the context (null: Gaussian of standard deviation 0.02, as in CoOp). Deterministic in ``seed``.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        shape = (len(labels), size, model.embedding_width) if class_specific else (size, model.embedding_width)
        ctx = 0.02 * torch.randn(shape, generator=generator)
        if init:
            plain = model.tokenize(init)
            words = model.token_embeddings(plain.ids[plain.lead : len(plain.ids) - plain.tail][:size]).detach().cpu()
            ctx[..., : len(words), :] = words
        ctx = ctx.to(model.device).requires_grad_()
        prompt = cls(
            ctx, position=position, labels=labels if class_specific else None, base_model=model.sha256, members=members
        )
        optimizer = torch.optim.Adam([ctx], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = torch.randperm(len(features), generator=generator)[:batch_size].to(features.device)
            logits = model.logit_scale * features[batch] @ prompt.label_features(model, labels).T
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, float(loss.detach()))
        prompt.ctx = ctx.detach()
        return prompt


def _lines(text: str | None) -> list[str] | None:
    return text.split("\n") if text else None
