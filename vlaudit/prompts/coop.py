"""CoOp (survey section 4.2.2): a learned text context, one for all labels or one for each.

Source: Zhou et al. 2021, "Learning to Prompt for Vision-Language Models" (arXiv:2109.01134). The context vectors stand
where the template's words would: after the start token (``class_token_position = end``, CoOp's default), before the
end token (``front``), or half on each side of the class name (``middle``).

A checkpoint of the code that the authors published is read as that code reads it: a class name has spaces for underscores,
and a full stop follows, behind name and context. It also holds the embeddings of the texts around the context, which tell
whether model and labels are those that it was learned on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.files import user_path
from vlaudit.inspection.checkpoints import Array, load_torch_checkpoint
from vlaudit.plugins import plugins
from vlaudit.prompts.files import (
    PromptFile,
    check_base_model,
    is_safetensors,
    read_prompt_file,
    refuse_more,
    tensor,
    write_prompt_file,
)
from vlaudit.prompts.specs import parse_options

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vlaudit.families.matching import MatchingModel, SoftTokens, TokenSequence

POSITIONS = ("end", "middle", "front")
OPTIONS = ("file", "position", "labels")
PLAIN, OFFICIAL = "plain", "official"  # label styles: the label as it is; "hot_dog" as "hot dog" and a full stop
AROUND = ("token_prefix", "token_suffix")  # what the authors' code saves beside what is learned
WRAPPERS = re.compile(r"((module|_orig_mod|model|prompt_learner)\.)+")  # what data parallelism, compilation and trainers put before names
OTHERS = {  # what the checkpoints of other methods hold beside a context, by parts of tensors' names
    "weight_for_k": "TCP",
    "class_context": "TCP",
    "meta_net.": "CoCoOp (or another method with a meta network)",
    "compound_prompt": "MaPLe",
    "ZS_image_encoder": "PromptSRC",
    "VPT": "IVLP (or PromptSRC, or VPT: tokens in the towers)",
    "mvlpt_proj": "UPT",
    "vpt_": "MVLPT",
    "ctx_pos": "DualCoOp",
    "ctx_neg": "DualCoOp",
    "image_encoder.": "a method that changes the image tower",
    "text_encoder.": "a method that changes the text tower",
    "proj.": "MaPLe",
    "film_lin": "DePT",
    "text_feature_residuals": "TaskRes",
    "ctx_init_state": "TPT",
    "ctx_global": "a method with several contexts",
    "ctx_local": "a method with several contexts",
    "adapter.": "an adapter behind the towers (CLIP-Adapter, CoPrompt)",
    "lora_": "LoRA",
}
STATES = ("state_dict", "model")  # where training loops keep a model's tensors
DASSL = ("state_dict", "epoch", "optimizer", "scheduler", "val_result")  # what its training loop saves
CLOSE = 0.01  # relative distance of an embedding to its copy in half precision; other tokens are 1 apart or more


class CoOp(MatchingPrompt):
    """A learned context ``ctx``: (M, W), or (C, M, W) with one row for each label of ``labels``, in that order.

    ``around``: embeddings (C, L, W) of the start token and (C, T, W) of what follows the context, of the labels that it was
    learned on, where its file has them. ``any_labels``: whether it is asked for other labels than these, on purpose.
    """

    method = "coop"
    title: ClassVar[str] = "CoOp"
    own: ClassVar[tuple[str, ...]] = ("ctx",)  # the names of its tensors
    usual: ClassVar[str] = "end"  # where the class name stands in a checkpoint, which does not say it
    learned = True
    learns_anew = True

    def __init__(self, ctx: Tensor, *, position: str = "end", labels: Sequence[str] | None = None,
                 label_style: str = PLAIN, around: tuple[Tensor | None, Tensor | None] = (None, None),
                 any_labels: bool = False, base_model: str | None = None, members: Sequence[str] = (),
                 path: Path | None = None) -> None:  # fmt: skip
        if position not in POSITIONS:
            raise UsageError(f"{self.title}'s class_token_position '{position}' is unknown.", f"Known: {', '.join(POSITIONS)}.")
        if label_style not in (PLAIN, OFFICIAL):
            raise UsageError(f"{self.title}'s label_style '{label_style}' is unknown.", f"Known: {PLAIN}, {OFFICIAL}.")
        self.ctx = ctx
        self.position = position
        self.labels = list(labels) if labels else None
        self.label_style = label_style
        self.any_labels = any_labels
        self.base_model = base_model
        self.members = list(members)
        self.path = path
        self.id = f"{self.method}-{path.stem}" if path else self.method
        self._prefix, self._suffix = around

    @classmethod
    def parse(cls, argument: str) -> Self:
        """``coop:FILE``, or ``coop:file=FILE,position=middle,labels=any``: a vlaudit prompt file, or a checkpoint of the
        official code. ``position`` is for checkpoints, which do not say it; ``labels=any`` for other labels than those that
        a shared context was learned on."""
        options = parse_options(argument, cls.method, OPTIONS)
        if options.get("labels", "any") != "any":
            raise UsageError(f"The prompt '{cls.method}' cannot take 'labels={options['labels']}'.", "Write labels=any, or nothing.")
        if not options.get("file"):
            raise UsageError(f"The prompt '{cls.method}' needs its file.", f"Write {cls.method}:FILE, or {cls.method}:file=FILE,position=middle.")
        return cls.load(user_path(options["file"]), position=options.get("position"), any_labels="labels" in options)

    @classmethod
    def load(cls, path: Path, *, position: str | None = None, any_labels: bool = False) -> Self:
        if is_checkpoint(path):
            return cls._from_checkpoint(path, position or cls.usual, any_labels)
        content = read_prompt_file(path, cls.method)
        ctx = tensor(content, "ctx", (2, 3), path)
        cls._refuse_more(content.tensors, path)
        own = content.class_token_position or "end"
        if position not in (None, own):
            raise UsageError(
                f"'{path}' was learned with the class name at the {own}, not at the {position}.", "Leave position= out."
            )
        return cls(
            ctx,
            position=own,
            labels=_lines(content.extra.get("labels")),
            label_style=content.extra.get("label_style") or PLAIN,
            any_labels=any_labels,
            base_model=content.base_model,
            members=content.members,
            path=path,
            **cls._more(content, path),
        )

    @classmethod
    def _more(cls, content: PromptFile, path: Path) -> dict[str, Any]:
        """What a method that builds on this one has beside the context, as arguments."""
        return {}

    @classmethod
    def _refuse_more(cls, names: Iterable[str], path: Path) -> None:
        """Raise UsageError for tensors of a prompt file that are not the method's."""
        refuse_more(names, cls.own, path)

    @classmethod
    def _state(cls, path: Path) -> dict[str, Tensor]:
        """The tensors of a checkpoint. Raises UsageError for those of another method."""
        tensors = state_tensors(path)
        refuse_others(tensors, cls.title, (*cls.own, *AROUND), path)
        return tensors

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was learned, by name."""
        return {"ctx": self.ctx}

    @classmethod
    def _from_checkpoint(cls, path: Path, position: str, any_labels: bool) -> Self:
        """A checkpoint of the official code: ``state_dict`` with ``ctx``, ``token_prefix`` and ``token_suffix``."""
        tensors = cls._state(path)
        content = PromptFile(cls.method, tensors)
        ctx = tensor(content, "ctx", (2, 3), path)
        prefix, suffix = (tensor(content, name, (3,), path) if name in tensors else None for name in AROUND)
        if (prefix is None) != (suffix is None):
            raise UsageError(
                f"'{path}' holds one of token_prefix and token_suffix, and CoOp's code saves both or, stripped, none.",
                "Give the checkpoint as the training code saved it.",
            )
        if prefix is not None and suffix is not None and (
            prefix.shape[1] != 1 or len(prefix) != len(suffix) or {prefix.shape[2], suffix.shape[2]} != {ctx.shape[-1]}
        ):
            raise UsageError(
                f"In '{path}', token_prefix {tuple(prefix.shape)}, token_suffix {tuple(suffix.shape)} and ctx {tuple(ctx.shape)} "
                "do not fit together as CoOp's do (one start token and one text for each label, all of one width).",
                "It is another method's file, or was changed after training.",
            )
        if ctx.dim() == 3 and suffix is not None and len(suffix) != len(ctx):
            raise UsageError(
                f"The context in '{path}' has {len(ctx)} rows and its labels {len(suffix)}, which {cls.title} has as many of.",
                "Another method (such as PLOT) has several contexts for each label; vlaudit does not read its files.",
            )
        return cls(
            ctx, position=position, label_style=OFFICIAL, around=(prefix, suffix),
            any_labels=any_labels, path=path, **cls._more(content, path),
        )  # fmt: skip

    @property
    def _extra(self) -> dict[str, str]:
        """The method's settings, as a prompt file keeps them."""
        extra = {"labels": "\n".join(self.labels)} if self.labels else {}
        return extra | ({"label_style": self.label_style} if self.label_style != PLAIN else {})

    def save(self, path: Path) -> None:
        """Write a vlaudit prompt file."""
        content = PromptFile(
            self.method, self.tensors, base_model=self.base_model, class_token_position=self.position,
            members=self.members, extra=self._extra,
        )  # fmt: skip
        write_prompt_file(path, content)

    @property
    def text(self) -> str:
        kind = "class-specific" if self.ctx.dim() == 3 else "shared"
        stop = ", then a full stop" if self.label_style == OFFICIAL else ""
        others = ", asked for other labels than it was learned on" if self.any_labels else ""
        return f"{self.ctx.shape[-2]} {kind} learned context vectors, class name at the {self.position}{stop}{others}"

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

        start = None if self._prefix is None else self._prefix[:, 0]
        if start is not None and not bool(_same(start, self._embeddings(model, model.tokenize("a").ids[:1])).all()):
            raise UsageError(
                f"The start token in '{self.path}' is not that of '{model.spec}'.",
                "It was learned on another model: name that one.",
            )

    def check_labels(self, model: MatchingModel, labels: Sequence[str]) -> None:
        """Raise UsageError for labels that are not those which the context was learned on, as far as its file tells."""
        rows = len(self.ctx) if self.ctx.dim() == 3 else None
        if self._suffix is not None and not (self.any_labels and rows is None):
            matches = [self._learned_row(model, label) for label in labels]
            strange = [label for label, row in zip(labels, matches, strict=True) if row is None]
            if strange:
                raise UsageError(
                    f"The context in '{self.path}' was learned on {len(self._suffix)} labels, and {len(strange)} of these "
                    f"{len(labels)} are not among them, such as '{strange[0]}' (or '{model.spec}' is not the model it was "
                    "learned on).",
                    "Give the labels it was learned on"
                    + (", or add labels=any to ask a shared context for others." if rows is None else "."),
                )
            if len(labels) != len(self._suffix):
                raise UsageError(
                    f"The context in '{self.path}' was learned on {len(self._suffix)} labels, and {len(labels)} are given.",
                    "Give all of them with --labels"
                    + (", or add labels=any to ask a shared context for fewer." if rows is None else "."),
                )
            if rows is not None:
                known = dict(zip(matches, labels, strict=True))
                if len(known) != rows:
                    raise UsageError(
                        f"Two of the labels have one text, so which row of the context in '{self.path}' is whose cannot be told.",
                        "Rename one of them.",
                    )
                self.labels = [known[row] for row in range(rows)]
        elif rows == len(labels) and self.labels is None:
            self.labels = list(labels)
        self._rows(labels)
        long = [label for label in labels if self.token_count(model, label) > model.context_length]
        if long and self.label_style == OFFICIAL:
            raise UsageError(
                f"The label '{long[0]}' and {self.ctx.shape[-2]} context vectors are longer than the {model.context_length} "
                f"tokens that '{model.spec}' reads; the code that learned the context refuses it too.",
                "Shorten the label.",
            )

    def _learned_row(self, model: MatchingModel, label: str) -> int | None:
        """Which of the learned texts is this label's, by the embeddings of its tokens up to the end token."""
        assert self._suffix is not None
        name, rest, tail = self._parts(model, label)
        wanted = self._embeddings(model, [*name, *rest, *tail[:1]])
        if len(wanted) > self._suffix.shape[1]:
            return None
        rows = list(range(len(self._suffix)))
        for place, embedding in enumerate(wanted):
            same = _same(self._suffix[rows, place], embedding).tolist()
            rows = [row for row, hit in zip(rows, same, strict=True) if hit]
        return rows[0] if rows else None

    def _embeddings(self, model: MatchingModel, ids: Sequence[int]) -> Tensor:
        return model.token_embeddings(ids).detach().float().cpu()

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return model.encode_tokens(*self.tokens(model, labels, self._rows(labels)))

    def learned_anew(
        self, model: MatchingModel, features: Tensor, targets: Tensor, labels: Sequence[str], *, steps: int, seed: int
    ) -> CoOp:
        size, own = self.ctx.shape[-2], self.ctx.dim() == 3
        return self.fit(model, features, targets, labels, size=size, class_specific=own, position=self.position,
                        label_style=self.label_style, steps=steps, seed=seed)  # fmt: skip

    def token_count(self, model: MatchingModel, label: str) -> int:
        plain = model.tokenize(label)
        name, rest, tail = self._parts(model, label)
        return plain.lead + self.ctx.shape[-2] + len(name) + len(rest) + len(tail)

    def _rows(self, labels: Sequence[str]) -> Tensor:
        """The context for these labels: the shared one, or the labels' own rows."""
        ctx = self._text_context()
        if ctx.dim() == 2:
            return ctx
        known = self.labels or list(labels)
        if len(known) != len(ctx) or not set(labels) <= set(known):
            raise UsageError(
                f"The class-specific context in '{self.path}' has {len(self.ctx)} rows, one for each label it was learned "
                f"on; these labels differ from them.",
                "Give the same labels in the same order with --labels.",
            )
        return ctx[[known.index(label) for label in labels]]

    def _text_context(self) -> Tensor:
        """The context as the text tower reads it."""
        return self.ctx

    def _parts(self, model: MatchingModel, label: str) -> tuple[list[int], list[int], list[int]]:
        """Token ids of a class name, of what follows name and context (a full stop, in the official style), and of the end."""
        plain = model.tokenize(label if self.label_style == PLAIN else label.replace("_", " "))
        end = len(plain.ids) - plain.tail
        name = plain.ids[plain.lead : end]
        if self.label_style == PLAIN:
            return name, [], plain.ids[end:]
        whole = model.tokenize(label.replace("_", " ") + ".")
        said, end = whole.ids[whole.lead :], len(whole.ids) - whole.tail
        return said[: len(name)], whole.ids[whole.lead + len(name) : end], whole.ids[end:]

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
            name, rest, tail = self._parts(model, label)
            room = model.context_length - size - plain.lead - len(rest) - len(tail)
            name = name[: max(room, 1)]
            filler = name[:1]  # an ordinary token: pooling by end token or by largest id must not find it
            ids = [*plain.ids[: plain.lead], *filler * before, *name, *filler * (size - before), *rest, *tail]
            sequences.append(TokenSequence(ids, plain.lead, len(tail)))
            first, second = plain.lead, plain.lead + before + len(name)
            slots.append([*range(first, first + before), *range(second, second + size - before)])
        return sequences, SoftTokens(ctx.to(model.device), slots)

    @classmethod
    def fit(cls, model: MatchingModel, features: Tensor, targets: Tensor, labels: Sequence[str], *, size: int = 4,
            class_specific: bool = False, steps: int = 200, batch_size: int = 64, rate: float = 2e-2, seed: int = 0,
            position: str = "end", init: str | None = "a photo of a", members: Sequence[str] = (), label_style: str = PLAIN,
            progress: Callable[[int, float], None] | None = None) -> CoOp:  # fmt: skip
        """Learn a context with cross-entropy on few labelled pictures, the model frozen.

        features: (N, D) unit-norm image features; targets: (N,) int64 positions in ``labels``; ``init``: words whose
        embeddings start the context (null: Gaussian of standard deviation 0.02, as in CoOp). Deterministic in ``seed``.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        shape = (len(labels), size) if class_specific else (size,)
        ctx = cls.first_context(model, shape, init, generator).requires_grad_()
        prompt = cls(ctx, position=position, labels=labels if class_specific else None, label_style=label_style,
                     base_model=model.sha256, members=members)  # fmt: skip
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

    @classmethod
    def first_context(cls, model: MatchingModel, shape: tuple[int, ...], init: str | None, generator: Generator) -> Tensor:
        """A context (*shape, W) before it is learned: the embeddings of words, and noise where they end."""
        import torch

        ctx = 0.02 * torch.randn((*shape, model.embedding_width), generator=generator)
        if init:
            plain = model.tokenize(init)
            words = model.token_embeddings(plain.ids[plain.lead : len(plain.ids) - plain.tail][: shape[-1]]).detach().cpu()
            ctx[..., : len(words), :] = words
        return ctx.to(model.device)


def _lines(text: str | None) -> list[str] | None:
    return text.split("\n") if text else None


def _own_name(name: str) -> str:
    """A tensor's name in the prompt learner itself."""
    found = WRAPPERS.match(name)
    return name[found.end() :] if found else name


def _same(copies: Tensor, wanted: Tensor) -> Tensor:
    """(..., ) bool: whether embeddings (..., W) are copies of the wanted ones, in half precision perhaps."""
    if copies.shape[-1] != wanted.shape[-1]:
        return copies.new_zeros(copies.shape[:-1]).bool()
    return (copies - wanted).norm(dim=-1) <= CLOSE * wanted.norm(dim=-1)


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a torch checkpoint, by its first bytes or, where they say nothing, by its name."""
    if not os.path.isfile(path) or is_safetensors(path):
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80" or ".pth" in path.name or path.suffix in {".tar", ".pt"}


def state_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint of Dassl's kind, without what wrappers put before their names. Raises UsageError for tensors beside
    its state."""
    import torch

    checkpoint = load_torch_checkpoint(path)
    whole = checkpoint if isinstance(checkpoint, dict) else {}
    state = next((whole[name] for name in STATES if isinstance(whole.get(name), dict)), whole)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, Array):
            value = value.tensor()
        if isinstance(value, torch.Tensor):
            short = _own_name(str(name))
            tensors[str(name) if short in tensors else short] = value
    if state is not whole:
        beside = [name for name, part in whole.items() if part is not state and name not in DASSL and _holds_tensors(part)]
        refuse_more(map(str, beside), ["state_dict"], path)
    return tensors


def refuse_others(tensors: Mapping[str, Tensor], method: str, own: Collection[str], path: Path, needs: str = "ctx") -> None:
    """Raise UsageError for a checkpoint that holds more than the ``own`` tensors of a method, by the name of the other method where it
    is known, and for one without the tensor that the method ``needs``."""
    for mark, other in OTHERS.items():
        strange = next((name for name in tensors if mark in name and name not in own), None)
        if strange and not other.startswith(method):
            known = other.partition(" ")[0].lower()
            raise UsageError(
                f"'{path}' is a checkpoint of {other}, not of {method}: it holds '{strange}'.",
                f"Write --prompt {known}:{path}."
                if known in plugins("prompts")
                else f"Only {method}'s own tensors are read; another method's would be another prompt without its other parts.",
            )
    if needs not in tensors:
        raise UsageError(f"'{path}' holds no {method} context (a tensor named '{needs}').", "See docs/prompt-files.md.")
    refuse_more(tensors, list(own), path)


def _holds_tensors(part: Any) -> bool:
    import torch

    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else [part]
    return any(isinstance(value, torch.Tensor) for value in parts)
