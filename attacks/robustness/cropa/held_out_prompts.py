"""Prompts that noise on a picture is tried on and was not made for: other wordings, other prompting methods on the same model;
and what an answer under them is."""

from __future__ import annotations

from vlaudit.attacks.shared.context_elements import spare
from vlaudit.attacks.shared.questions import Asked
from vlaudit.data.dataset import Dataset
from vlaudit.families.generation import GenerationPrompt, MultimodalGenerator
from vlaudit.probe import Context
from vlaudit.prompts.chain_of_thought import ChainOfThought
from vlaudit.prompts.in_context import InContext
from vlaudit.prompts.retrieval import Retrieval

WORDINGS = {
    "as asked": "{}",
    "other wording 1": "Please answer the question. {}",
    "other wording 2": "Here is a picture. {}",
}
_POOL, _SHOTS = 200, 4
_RATIONALE = 32  # tokens


def methods(ctx: Context) -> dict[str, MultimodalGenerator]:
    """The model under other prompting methods: demonstrations from the training data (where there are some that are not
    audited), beyond quick effort retrieved ones too, and a chain of thought."""
    pool = [example for example in spare(ctx) if example.split == "train"][:_POOL]
    prompts: dict[str, GenerationPrompt] = {"chain of thought": ChainOfThought(tokens=_RATIONALE)}
    if pool:
        shown = Dataset("the training data", pool)
        prompts["in-context"] = InContext(shown, k=_SHOTS)
        if ctx.effort != "quick":
            prompts["retrieval"] = Retrieval(shown, k=_SHOTS)
    return {name: ctx.target.under(prompt) for name, prompt in prompts.items()}


def kind(row: Asked, said: str, aim: str, decoy: str | None) -> str:
    """What an answer is: ``right``, the wrong answer that was aimed at (``aim``) or was not (``decoy``), ``other``,
    ``unreadable`` or ``empty``."""
    if not any(character.isalnum() for character in said):
        return "empty"
    if row.right(said):
        return "right"
    if row.read(said) is None:
        return "unreadable"
    if row.gives(said, aim):
        return "aim"
    return "decoy" if decoy is not None and row.gives(said, decoy) else "other"
