"""Chain of thought (survey section 3.2.1): the model writes a rationale before its answer, T_{l+1} = T_l(x, t).

Sources: Wei et al. 2022 (arXiv:2201.11903); the two steps of ``zero-shot`` are those of Kojima et al. 2022
(arXiv:2205.11916). Each further step is a turn of its own, asked after the answers to those before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from vlaudit.errors import UsageError
from vlaudit.families.generation import GenerationPrompt
from vlaudit.files import user_path
from vlaudit.prompts.files import read_prompt_text
from vlaudit.prompts.instruction import check_instruction
from vlaudit.prompts.pool import whole_number
from vlaudit.prompts.specs import parse_options

OPTIONS = ("file", "tokens")
ZERO_SHOT = ("{} Let's think step by step.", "Therefore, the answer is")


class ChainOfThought(GenerationPrompt):
    """Several steps; the answer is what is said after the last one."""

    method = "chain-of-thought"

    def __init__(self, steps: Sequence[str] = ZERO_SHOT, *, tokens: int = 96, name: str = "zero-shot") -> None:
        if len(steps) < 2:
            raise UsageError(
                "A chain of thought needs at least two steps.", "Write one step a line: first one with {}."
            )
        self.template = check_instruction(steps[0])
        self.steps, self.step_tokens = tuple(steps[1:]), tokens
        self.id = f"chain-of-thought-{name}"

    @classmethod
    def parse(cls, argument: str) -> ChainOfThought:
        """``chain-of-thought:zero-shot``, or a text file with one step a line, of which the first has the ``{}`` of the
        question; ``file=…,tokens=N`` bounds each rationale."""
        options = parse_options(argument, cls.method, OPTIONS)
        tokens, source = whole_number(options, "tokens", 96, 1), options.get("file", "zero-shot")
        path = user_path(source)
        if source == "zero-shot" and not os.path.lexists(path):
            return cls(tokens=tokens)
        cure = "Give a text file with one step a line, or write chain-of-thought:zero-shot."
        lines = read_prompt_text(path, "file of a chain of thought", cure).splitlines()
        prompt = cls([line.strip() for line in lines if line.strip()], tokens=tokens, name=path.stem)
        prompt.path = path
        return prompt

    @property
    def text(self) -> str:
        return " → ".join((self.template, *self.steps))
