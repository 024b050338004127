"""Hard templates (survey section 4.2.1): "a photo of a {}", alone or averaged as an ensemble.

Sources: zero-shot templates and their ensembling in feature space, Radford et al. 2021 (arXiv:2103.00020).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingPrompt
from vlaudit.files import user_path
from vlaudit.prompts.files import read_prompt_lines

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel

PLAIN = "a photo of a {}"  # the plain prompt: every target's default reference


def fill(template: str, label: str) -> str:
    """Put a label into the template's ``{}`` slot; other braces stay as they are."""
    return template.replace("{}", label)


def check_template(template: str, name: str) -> str:
    """The template itself. Raises UsageError, which names it and does not quote it: it may be a line of a file that an audit
    folder from elsewhere names."""
    if template.count("{}") != 1:
        raise UsageError(f"{name} needs exactly one '{{}}' where the label goes.", f"Write for example '{PLAIN}'.")
    return template


class Template(MatchingPrompt):
    """One hard template."""

    method = "template"

    def __init__(self, template: str = PLAIN) -> None:
        self.template = check_template(template, f"The template '{template}'")
        self.id = template

    @classmethod
    def parse(cls, argument: str) -> Template:
        return cls(argument)

    @property
    def templates(self) -> tuple[str, ...]:
        return (self.template,)

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        return model.encode_texts([fill(self.template, label) for label in labels])


class Ensemble(MatchingPrompt):
    """Several hard templates whose unit-norm text features are averaged and normalised again."""

    method = "ensemble"

    def __init__(self, templates: Sequence[str], name: str | None = None) -> None:
        if len(templates) < 2:
            raise UsageError("A template ensemble needs at least two templates.", "Give one template a line.")
        self._templates = tuple(check_template(text, f"Template {n} of the ensemble") for n, text in enumerate(templates, 1))
        digest = hashlib.sha256("\n".join(self._templates).encode()).hexdigest()[:6]
        self.id = f"ensemble-{name or len(self._templates)}-{digest}"

    @classmethod
    def parse(cls, argument: str) -> Ensemble:
        """``ensemble:FILE``: a text file with one template a line; blank lines and ``#`` lines are skipped."""
        path = user_path(argument)
        prompt = cls(read_prompt_lines(path, "ensemble file", "Give a text file, one template a line."), path.stem)
        prompt.path = path
        return prompt

    @property
    def text(self) -> str:
        return " | ".join(self._templates)

    @property
    def templates(self) -> tuple[str, ...]:
        return self._templates

    def label_features(self, model: MatchingModel, labels: Sequence[str]) -> Tensor:
        import torch

        features = torch.stack(
            [model.encode_texts([fill(template, label) for label in labels]) for template in self._templates]
        )
        return torch.nn.functional.normalize(features.mean(dim=0), dim=-1)
