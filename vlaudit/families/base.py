"""What models, prompts and targets of all families share. A prompt binds to a model, and gives a target."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from vlaudit.errors import UsageError
from vlaudit.files import fingerprint, walk
from vlaudit.plugins import plugin
from vlaudit.records import Cost, Family, Needs, PromptInfo, Seconds

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from vlaudit.data.example import Example
    from vlaudit.families.passes import Cut

HARD = {
    Family.MATCHING: ("template", "a photo of a {}"),
    Family.GENERATION: ("instruction", "{}"),
    Family.TEXT_TO_IMAGE: ("design", "{}"),
}
"""Each family's method of hard prompting, and its plain prompt: the default reference of every target."""


TEXT_STEP = 3  # passes forward that a pass forward and backward through a text encoder takes


@dataclass
class Meter:
    """Counts what an audit asks for, by kind (see :class:`Cost`), as if nothing of it had been remembered; ``spared`` is what of that
    did not pass, because it was."""

    queries: int = 0
    gradient_steps: int = 0
    texts: int = 0
    text_steps: int = 0
    tokens: int = 0
    decoded: int = 0
    spared: Cost = field(default_factory=Cost)

    def read(self, texts: int, steps: bool = False) -> None:
        """Count texts that a text encoder alone reads; ``steps``: and that gradients flow back through."""
        self.queries, self.texts = self.queries + texts, self.texts + texts
        if steps:
            self.gradient_steps, self.text_steps = self.gradient_steps + texts, self.text_steps + texts

    def add(self, cost: Cost, times: int = 1) -> None:
        """Count a cost so many times."""
        for name in _KINDS:
            setattr(self, name, getattr(self, name) + times * getattr(cost, name))

    def spare(self, cost: Cost) -> None:
        """Count what was asked for and did not pass."""
        self.add(cost)
        self.spared += cost

    def cost(self) -> Cost:
        return Cost(**{name: getattr(self, name) for name in _KINDS})

    def passed(self) -> Cost:
        """What passed of that."""
        return self.cost() - self.spared


_KINDS = tuple(name for name in Cost.model_fields if name != "seconds")


@dataclass(frozen=True)
class Speed:
    """Measured seconds of a pass on an idle machine, by kind: forward only and forward with backward, of a text read by the text encoder
    alone, of a token of an answer, and between latents and a picture."""

    forward: Seconds
    backward: Seconds
    text: Seconds = 0.0
    token: Seconds = 0.0
    decoded: Seconds = 0.0
    length: Seconds = 0.0  # tokens that an answer has in the mean, where it may have CALIBRATED

    def times(self, factor: float) -> Speed:
        """Of a machine on which all takes so many times as long."""
        prices = {name: value * factor for name, value in vars(self).items() if name != "length"}
        return replace(self, **prices)

    def seconds(self, cost: Cost) -> float:
        """Estimated seconds of a cost: a gradient step is a forward and a backward pass."""
        steps = cost.gradient_steps - cost.text_steps
        return (
            max(cost.passes - steps, 0) * self.forward + steps * self.backward + cost.decoded * self.decoded + cost.tokens * self.token
            + (cost.texts - cost.text_steps) * self.text + cost.text_steps * TEXT_STEP * self.text
        )  # fmt: skip


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

    @cached_property
    def cut(self) -> Cut:
        """Through which all passes go: it cuts them to what fits into memory."""
        from vlaudit.families.passes import Cut

        return Cut(self.device, self.spec)

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
    drawn: str = ""  # what it draws on pictures when they are read, where it does; the same text, the same pixels
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

    def check_examples(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most prompts need nothing of pictures but themselves
        """Raise UsageError for a picture that lacks what the prompt draws on it."""

    def shown(self, example: Example) -> Image:
        """The picture of an example as the model is shown it, before its processor: as it is, or with what the prompt draws on it."""
        return example.open()

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
        self.speed: Speed | None = None  # once it has been calibrated
        self.remarks: list[str] = []  # sentences of ``check`` on labels or captions that are not read as they are written

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return "model" in vars(self)

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

    def whole(self, cost: Cost, labels: int) -> Cost:
        """What a probe asks for, with what the prompt itself passes beside each picture, asked for so many labels."""
        return cost


LONG = 2.0  # seconds after which a measurement is not repeated
CALIBRATED = 16  # most tokens of the answers that are timed


def seconds_of(run: Callable[[], object], model: Model, repeats: int = 3) -> float:
    """The fastest of a few runs, in seconds of work; waits for the device. What takes long runs once. A run in which memory is
    measured does not count."""
    import torch

    clock, best, begun = work_clock(model), float("inf"), time.perf_counter()
    for _ in range(repeats + 1):
        then, known = clock(), model.cut.measured
        run()
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        if model.cut.measured == known:
            best = min(best, clock() - then)
        if time.perf_counter() - begun > LONG and best < float("inf"):
            break
    return max(best, 1e-9)


def work_clock(model: Model | None) -> Callable[[], float]:
    """A clock of seconds of work, that does not run while others have the machine: on a CPU this process's time, over its threads; time
    itself on other devices, and where a server works."""
    import torch

    if model is None or (model.device.type == "cpu" and model.files):
        threads = torch.get_num_threads()
        return lambda: time.process_time() / threads
    return time.perf_counter


def listed(texts: Sequence[str], most: int = 5) -> str:
    """The first of some texts, as a sentence quotes them."""
    return ", ".join(f"'{text[:60]}{'…' * (len(text) > 60)}'" for text in texts[:most]) + " …" * (len(texts) > most)
