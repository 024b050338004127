"""What prompts have in common that give the image tower other learned tokens for each picture, and ask labels with a hard template."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.prompts.coop import is_checkpoint, state_tensors
from vlaudit.prompts.files import PromptFile, check_base_model, read_prompt_file, write_prompt_file
from vlaudit.prompts.template import Template

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel


class TokensByPicture(MatchingPrompt):
    """Learned tokens that depend on the picture, beside a hard template."""

    learned = True
    noun: ClassVar[str]  # what of its file is as wide as the tower

    def __init__(self, template: str, base_model: str | None, members: Sequence[str], path: Path | None) -> None:
        self._words = Template(template)
        self.base_model, self.members, self.path = base_model, list(members), path
        self.id = f"{self.method}-{path.stem}" if path else self.method

    @classmethod
    def content(cls, path: Path) -> tuple[PromptFile, bool]:
        """What a file holds, and whether it is a vlaudit prompt file, which says its settings, and no checkpoint."""
        if is_checkpoint(path):
            return PromptFile(cls.method, state_tensors(path)), False
        return read_prompt_file(path, cls.method), True

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """What was learned, by name."""

    @property
    @abstractmethod
    def extra(self) -> dict[str, str]:
        """Its own settings, as a prompt file holds them."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Of its tokens."""

    def save(self, path: Path) -> None:
        """Write a vlaudit prompt file."""
        write_prompt_file(path, PromptFile(self.method, dict(self.tensors), base_model=self.base_model, members=self.members, extra=self.extra))

    def check(self, model: MatchingModel) -> None:
        check_base_model(self.path, self.base_model, model.sha256, model.spec)
        if self.width != model.image_tower.width:
            raise UsageError(
                f"The {self.noun} in '{self.path}' are {self.width} wide, but the image tower of '{model.spec}' is {model.image_tower.width} wide.",
                "They were learned on another model.",
            )

    @property
    def templates(self) -> tuple[str, ...]:
        return self._words.templates

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return self._words.label_features(model, labels)
