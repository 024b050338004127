"""What models, prompts and targets of all families share. A prompt binds to a model, and gives a target."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from vlaudit.errors import UsageError
from vlaudit.files import fingerprint, walk
from vlaudit.plugins import plugin
from vlaudit.records import Cost, Family, Needs, PromptInfo

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from vlaudit.data.example import Example

HARD = {
    Family.MATCHING: ("template", "a photo of a {}"),
    Family.GENERATION: ("instruction", "{}"),
    Family.TEXT_TO_IMAGE: ("design", "{}"),
}
"""Each family's method of hard prompting, and its plain prompt: the default reference of every target."""


@dataclass
class Meter:
    """Counts what an audit spends: examples passed forward (``queries``) and backward (``gradient_steps``), and of the former those
    that a text encoder alone read (``texts``)."""

    queries: int = 0
    gradient_steps: int = 0
    texts: int = 0

    def snapshot(self) -> tuple[int, int, int]:
        return self.queries, self.gradient_steps, self.texts


@dataclass(frozen=True)
class Speed:
    """Measured seconds a query, forward only and forward with backward, and of a text read by the text encoder alone."""

    forward: float
    backward: float
    text: float = 0.0

    def seconds(self, cost: Cost) -> float:
        """Estimated seconds of a cost: a gradient step is a forward and a backward pass."""
        plain = max(cost.queries - cost.gradient_steps - cost.texts, 0)
        return plain * self.forward + cost.gradient_steps * self.backward + cost.texts * self.text


class Model(ABC):
    """Weights and their processor, of one family, loaded by a backend. Knows no prompt."""

    family: ClassVar[Family]
    spec: str  # how the user named it
    sha256: str  # fingerprint of the weight files, see `vlaudit.files.fingerprint`
    files: list[Path]  # what was read from disk
    device: torch.device
    dtype: str | None = None  # what it computes in; null where it runs elsewhere. All that it returns is float32
    revision: str | None = None  # the commit of the hub's repository that it was read from
    remarks: Sequence[str] = ()  # sentences on how it was loaded that a reader of its findings should know
    measured: object = True  # what loading it again need not find out: see ``vlaudit.device.Loading``

    @abstractmethod
    def preprocess(self, picture: Image) -> Tensor:
        """The checkpoint's own resize and crop, without normalisation: an RGB picture to (3, H, W) in [0, 1].

        Raises CapabilityError where the model takes no pictures.
        """


class Prompt(ABC):
    """How the model is asked. ``id`` is unique among the prompts of an audit and readable."""

    method: ClassVar[str]
    family: ClassVar[Family]
    learned: ClassVar[bool] = False
    path: Path | None = None  # the file it was loaded from
    members: Sequence[str] = ()  # SHA-256 hashes of the pictures a learned prompt was fitted on, where it says so
    id: str = ""

    @classmethod
    @abstractmethod
    def parse(cls, argument: str) -> Self:
        """Make the prompt from what follows ``method:`` on the command line: a file, or ``key=value,…``."""

    @abstractmethod
    def bind(self, model: Model) -> Target:
        """The target: this prompt on that model. Raises UsageError when they do not fit."""

    def check(self, model: Any) -> None:  # noqa: B027 - most prompts fit every model of their family
        """Raise UsageError when the prompt was made for another model of its family or does not fit its shapes."""

    def fitted(self, model: Model) -> Any:
        """The model, checked against this prompt. Raises UsageError when they do not fit."""
        if model.family is not self.family:
            raise UsageError(
                f"The prompt '{self.id}' is for {self.family.value} models, but '{model.spec}' is {model.family.value}."
            )
        self.check(model)
        return model

    @property
    def text(self) -> str:
        """The prompt in readable form, for reports."""
        return self.id

    def reference(self) -> Prompt:
        """The prompt that shows what this one adds: by default its family's plain prompt."""
        return plain_prompt(self.family)

    def info(self) -> PromptInfo:
        path = None if self.path is None else self.path.as_posix()
        return PromptInfo(id=self.id, method=self.method, text=self.text, sha256=self.sha256(), path=path)

    def sha256(self) -> str | None:
        """Fingerprint of the file or folder it was loaded from; None for a prompt that is all text."""
        if self.path is None:
            return None
        files = [self.path] if self.path.is_file() else sorted(filter(os.path.isfile, walk(self.path)))
        return fingerprint(files)


def plain_prompt(family: Family) -> Prompt:
    """The prompt that shows what any other adds."""
    method, text = HARD[family]
    prompt: Prompt = plugin("prompts", method).parse(text)
    return prompt


class Material(Protocol):
    """What a target is checked and timed on; the context of a probe is one."""

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def captions(self) -> Sequence[str]: ...

    @property
    def examples(self) -> Sequence[Example]: ...

    def pictures(self, examples: Sequence[Example]) -> list[Tensor]:
        """Model-ready pictures (3, H, W) in [0, 1]."""

    def images(self, examples: Sequence[Example]) -> Tensor:
        """The same as one tensor (N, 3, H, W)."""

    def questions(self, examples: Sequence[Example]) -> list[str]:
        """What is asked of each picture."""


class Target(ABC):
    """A model under a prompt: what is audited."""

    family: ClassVar[Family]
    model: Any
    capabilities: frozenset[Needs]
    _again: Callable[[], Model]

    def __init__(self, model: Model, prompt: Prompt) -> None:
        self.model = model
        self.prompt = prompt
        self.device = model.device
        self.meter = Meter()
        self.remarks: list[str] = []  # sentences of ``check`` on labels or captions that are not read as they are written

    def release(self, again: Callable[[], Model]) -> None:
        """Let go of the model. It is loaded ``again`` when it is next asked for."""
        self._again = again
        del self.model

    def __getattr__(self, name: str) -> Any:
        if name != "model" or "_again" not in vars(self):
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        self.model = self.prompt.fitted(self._again())
        return self.model

    @abstractmethod
    def check(self, on: Material) -> None:
        """Raise ModelError when nothing this target says would mean anything (NaN, one answer to everything), and UsageError
        for labels that cannot be measured. Fills ``remarks``."""

    @abstractmethod
    def calibrate(self, on: Material) -> Speed:
        """Seconds a query from a few timed passes, for ``--dry-run`` and the time left."""


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """The fastest of a few runs, in seconds; waits for the device."""
    import torch

    best = float("inf")
    for _ in range(repeats):
        then = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - then)
    return best


def listed(texts: Sequence[str], most: int = 5) -> str:
    """The first of some texts, as a sentence quotes them."""
    return ", ".join(f"'{text[:60]}{'…' * (len(text) > 60)}'" for text in texts[:most]) + " …" * (len(texts) > most)
