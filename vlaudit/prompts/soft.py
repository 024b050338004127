"""Prompt tuning and prefix token tuning (survey section 3.2.2): learned vectors before all that the model reads.

Sources: Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning" (arXiv:2104.08691): vectors at the
input; Li & Liang 2021, "Prefix-tuning" (arXiv:2101.00190): keys and values in every layer. Both are read from and saved as
the folders that the peft library writes. The model itself is never changed: the vectors live in the target's
conversations, and are in the key-value cache that these share.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from vlaudit.errors import UsageError
from vlaudit.families.generation import GenerationPrompt
from vlaudit.files import Unreadable, read_json_object, user_path
from vlaudit.inspection.checkpoints import load_torch_checkpoint
from vlaudit.prompts.files import check_base_model, read_members, read_safetensors, real, refuse_more
from vlaudit.prompts.instruction import check_instruction
from vlaudit.prompts.specs import parse_options

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.generation import GenerationModel, LearnedPrefix

OPTIONS = ("file", "instruction")
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


class SoftPrompt(GenerationPrompt):
    """Learned vectors, and an instruction beside them."""

    learned = True
    prefix: LearnedPrefix
    peft_type: ClassVar[str]

    def __init__(self, prefix: LearnedPrefix, *, template: str = "{}", base_model: str | None = None,
                 members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        self.prefix = prefix
        self.template = check_instruction(template)
        self.base_model = base_model
        self.members = list(members)
        self.path = path
        self.id = f"{self.method}-{path.name}" if path else self.method

    @classmethod
    def parse(cls, argument: str) -> Self:
        """``METHOD:FOLDER``, or ``METHOD:file=FOLDER,instruction=…{}…``."""
        options = parse_options(argument, cls.method, OPTIONS)
        return cls.load(user_path(options.get("file", "")), template=options.get("instruction", "{}"))

    @classmethod
    def load(cls, folder: Path, template: str = "{}") -> Self:
        """Read a peft folder: ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``, tensors only)."""
        config, tensor, metadata = read_peft(folder, cls.peft_type, cls.method)
        return cls(cls._from_peft(tensor, config, folder), template=template, path=folder,
                   base_model=metadata.get("base_model"), members=read_members(metadata, folder))  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a peft folder, with the base model's fingerprint and the members in the metadata of its weights."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensor, config = self._to_peft()
        config.save_pretrained(str(folder))
        metadata = {"format": "pt", "base_model": self.base_model or "", "members": json.dumps(self.members)}
        tensors = {"prompt_embeddings": tensor.detach().cpu().contiguous()}
        save_file(tensors, str(folder / WEIGHTS[0]), metadata=metadata)

    @property
    def text(self) -> str:
        return f"{self.prefix.size} learned vectors ({self.method}) before '{self.template}'"

    def check(self, model: GenerationModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        super().check(model)

    @classmethod
    def fit(cls, model: GenerationModel, pictures: Sequence[Tensor], questions: Sequence[str], answers: Sequence[str], *,
            size: int = 8, steps: int = 200, batch_size: int = 8, rate: float = 1e-2, seed: int = 0, template: str = "{}",
            init: str | None = None, members: Sequence[str] = (),
            progress: Callable[[int, float], None] | None = None) -> Self:  # fmt: skip
        """Learn the vectors on pictures with questions and answers, the model frozen: the answers' likelihood, their
        ends included. Deterministic in ``seed``. ``init``: a text whose tokens the vectors start from; else tokens that
        are drawn from the words of the answers and the questions."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        words = model.tokenize(init or " ".join([*questions, *answers]))
        draw = torch.randint(len(words), (size,), generator=generator).tolist()
        start = [words[i % len(words)] for i in range(size)] if init else [words[i] for i in draw]
        learned = cls._start(model, start).detach().clone().requires_grad_()
        prompt = cls(cls._wrap(learned), template=template, base_model=model.sha256, members=members)
        optimizer = torch.optim.Adam([learned], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = torch.randperm(len(pictures), generator=generator)[:batch_size].tolist()
            with torch.enable_grad():
                talks = [prompt.conversation(model, pictures[i], questions[i]) for i in batch]
                loss = -model.log_likelihood(talks, [[answers[i]] for i in batch], end=True).mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, float(loss.detach()))
        prompt.prefix = cls._wrap(learned.detach())
        prompt.check(model)
        return prompt

    @staticmethod
    @abstractmethod
    def _from_peft(tensor: Tensor, config: dict[str, Any], folder: Path) -> LearnedPrefix: ...

    @abstractmethod
    def _to_peft(self) -> tuple[Tensor, Any]: ...

    @staticmethod
    @abstractmethod
    def _start(model: GenerationModel, ids: list[int]) -> Tensor: ...

    @staticmethod
    @abstractmethod
    def _wrap(learned: Tensor) -> LearnedPrefix: ...


class PromptTuning(SoftPrompt):
    """M vectors (M, W) at the input."""

    method = "prompt-tuning"
    peft_type = "PROMPT_TUNING"

    @staticmethod
    def _from_peft(tensor: Tensor, config: dict[str, Any], folder: Path) -> LearnedPrefix:
        from vlaudit.families.generation import LearnedPrefix

        count, halves = config.get("num_virtual_tokens") or len(tensor), config.get("num_transformer_submodules") or 1
        if type(count) is not int or type(halves) is not int or count < 1 or len(tensor) != count * halves:
            raise UsageError(
                f"'{folder}' holds {len(tensor)} vectors, but the num_virtual_tokens of its adapter_config.json says otherwise.",
                "Save it again with peft.",
            )
        return LearnedPrefix(embeddings=tensor[:count])  # peft keeps a second half for decoders, which nothing reads

    def _to_peft(self) -> tuple[Tensor, Any]:
        from peft import PromptTuningConfig

        values = self.prefix.embeddings
        assert values is not None
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(values), token_dim=values.shape[1],
                                    num_transformer_submodules=1, inference_mode=True)  # fmt: skip
        return values, config

    @staticmethod
    def _start(model: GenerationModel, ids: list[int]) -> Tensor:
        return model.token_embeddings(ids)

    @staticmethod
    def _wrap(learned: Tensor) -> LearnedPrefix:
        from vlaudit.families.generation import LearnedPrefix

        return LearnedPrefix(embeddings=learned)


class PrefixTuning(SoftPrompt):
    """Keys and values (layers, 2, heads, M, D) of M positions."""

    method = "prefix-tuning"
    peft_type = "PREFIX_TUNING"

    @staticmethod
    def _from_peft(tensor: Tensor, config: dict[str, Any], folder: Path) -> LearnedPrefix:
        from vlaudit.families.generation import LearnedPrefix

        try:
            layers, heads, width = (int(config[key]) for key in ("num_layers", "num_attention_heads", "token_dim"))
            if min(layers, heads, width) < 1:
                raise ValueError("a size below 1")
            if int(config.get("num_transformer_submodules") or 1) != 1:
                raise UsageError(f"The prefix in '{folder}' is for an encoder-decoder, which cannot take one here.")
            values = tensor.view(len(tensor), layers * 2, heads, width // heads).permute(1, 2, 0, 3)
        except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise UsageError(
                f"The prefix in '{folder}' does not have the shape that its adapter_config.json says.",
                "Save it again with peft.",
            ) from error
        return LearnedPrefix(keys_values=values.unflatten(0, (layers, 2)))

    def _to_peft(self) -> tuple[Tensor, Any]:
        from peft import PrefixTuningConfig

        values = self.prefix.keys_values
        assert values is not None
        layers, _, heads, size, depth = values.shape
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=size, token_dim=heads * depth, num_layers=layers, num_attention_heads=heads,
            num_transformer_submodules=1, encoder_hidden_size=heads * depth, inference_mode=True,
        )  # fmt: skip
        return values.permute(3, 0, 1, 2, 4).reshape(size, -1), config

    @staticmethod
    def _start(model: GenerationModel, ids: list[int]) -> Tensor:
        return model.keys_values(ids)

    @staticmethod
    def _wrap(learned: Tensor) -> LearnedPrefix:
        from vlaudit.families.generation import LearnedPrefix

        return LearnedPrefix(keys_values=learned)


def read_peft(folder: Path, kind: str, method: str) -> tuple[dict[str, Any], Tensor, dict[str, str]]:
    """The config of a peft folder, its tensor ``prompt_embeddings``, and the metadata of its file. Raises UsageError."""
    import torch

    try:
        config = read_json_object(folder / "adapter_config.json")
    except Unreadable as error:
        raise UsageError(
            f"'{folder}' is no peft folder: its adapter_config.json {error}.",
            f"Write {method}:FOLDER with a folder that peft's save_pretrained wrote.",
        ) from error
    found = str(config.get("peft_type"))[:40]
    if found != kind:
        known = {"PROMPT_TUNING": "prompt-tuning", "PREFIX_TUNING": "prefix-tuning"}
        cure = (
            f"Write --prompt {known[found]}:{folder}." if found in known else "Only prompt and prefix tuning are read."
        )
        raise UsageError(f"'{folder}' holds a {found} adapter, not one of {method}.", cure)
    path = next((folder / name for name in WEIGHTS if os.path.isfile(folder / name)), None)
    if path is None:
        raise UsageError(f"The peft folder '{folder}' lacks {WEIGHTS[0]}.", "Save the adapter again with peft.")
    metadata: dict[str, str] = {}
    if path.suffix == ".bin":
        tensors = load_torch_checkpoint(path)
    else:
        tensors, metadata = read_safetensors(path)
    held = tensors.get("prompt_embeddings") if isinstance(tensors, dict) else None
    values = real(held) if isinstance(held, torch.Tensor) else None
    if values is None or values.dim() != 2 or values.numel() == 0:
        raise UsageError(
            f"'{path}' lacks the tensor 'prompt_embeddings' (M, width).", "Save the adapter again with peft."
        )
    refuse_more(tensors, ("prompt_embeddings",), path)
    if not torch.isfinite(values).all():
        raise UsageError(f"The learned vectors in '{path}' are not finite.", "They are damaged, or never converged.")
    return config, values, metadata
