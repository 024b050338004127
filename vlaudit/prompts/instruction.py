"""Task instruction (survey section 3.2.1): a hand-written text around the question, x_in = H(x, t).

``{}`` stands for the question. The plain prompt is ``{}`` alone: the bare question about the picture.
"""

from __future__ import annotations

from vlaudit.errors import UsageError
from vlaudit.families.generation import GenerationPrompt
from vlaudit.files import user_path
from vlaudit.prompts.files import read_prompt_text

SYSTEM_LINE = "---"


def check_instruction(template: str) -> str:
    """The template itself, if the question has exactly one place in it. Raises UsageError, which does not quote it: an audit folder
    from elsewhere may name any file."""
    if template.count("{}") != 1:
        raise UsageError(
            "The instruction needs exactly one '{}' where the question goes.",
            "Write for example 'Answer with one word. {}'.",
        )
    return template


class Instruction(GenerationPrompt):
    """A hard template, and a system turn where there is one."""

    method = "instruction"

    def __init__(self, template: str = "{}", system: str = "") -> None:
        self.template, self.system = check_instruction(template), system
        self.id = template if template != "{}" or system else "bare-question"

    @classmethod
    def parse(cls, argument: str) -> Instruction:
        """A template with ``{}``, or a text file with one; what stands above a line ``---`` is the system turn."""
        if "{}" in argument:
            return cls(argument)
        path = user_path(argument)
        cure = "Give a text file with '{}' in it, or write the template itself."
        text = "\n".join(read_prompt_text(path, "instruction file", cure).splitlines())  # CRLF too
        above, line, below = f"\n{text}".partition(f"\n{SYSTEM_LINE}\n")
        system, template = (above.strip(), below.strip()) if line else ("", text.strip())
        prompt = cls(template, system)
        prompt.path, prompt.id = path, f"instruction-{path.stem}"
        return prompt

    @property
    def text(self) -> str:
        return f"{self.system}\n{SYSTEM_LINE}\n{self.template}" if self.system else self.template
