"""In-context learning (survey section 3.2.1): k demonstrations before the question, x_in = H(C, x, t).

Sources: Brown et al. 2020 (arXiv:2005.14165); with pictures, Tsimpoukelli et al. 2021, "Frozen" (arXiv:2106.13884) and
Alayrac et al. 2022, "Flamingo" (arXiv:2204.14198). The demonstrations are the same for every question: k of the pool,
drawn by ``seed``, as many of each answer as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlaudit.data.dataset import Dataset
from vlaudit.data.example import Example
from vlaudit.errors import UsageError, did_you_mean
from vlaudit.prompts.pool import PoolPrompt, load_pool, whole_number
from vlaudit.prompts.specs import parse_options

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.generation import Demonstration, GenerationModel

OPTIONS = ("file", "pool", "k", "seed", "order", "instruction")
ORDERS = ("drawn", "pool", "reverse")  # as drawn; as in the pool; the other way round


class InContext(PoolPrompt):
    """k demonstrations of a pool, the same for every question."""

    method = "in-context"

    def __init__(self, pool: Dataset, k: int = 4, *, seed: int = 0, order: str = "drawn", template: str = "{}") -> None:
        super().__init__(pool, k, template)
        if order not in ORDERS:
            raise UsageError(f"The order '{order}' of demonstrations is unknown.", did_you_mean(order, list(ORDERS)))
        self.seed, self.order = seed, order
        self.examples = draw(pool, self.k, seed, order)
        self.members = [example.sha256() for example in self.examples]
        self.id = f"in-context-{self.k}-{order}-seed-{seed}"

    @classmethod
    def parse(cls, argument: str) -> InContext:
        """``in-context:POOL``, or ``in-context:pool=POOL,k=8,seed=0,order=drawn,instruction=…{}…``."""
        options = parse_options(argument, cls.method, OPTIONS)
        source = options.get("pool") or options.get("file")
        if not source:
            raise UsageError("The prompt 'in-context' needs a pool.", "Write in-context:pool=DIR,k=4.")
        return cls(
            load_pool(source), whole_number(options, "k", 4, 1), seed=whole_number(options, "seed", 0),
            order=options.get("order", "drawn"), template=options.get("instruction", "{}"),
        )  # fmt: skip

    @property
    def text(self) -> str:
        shown = "; ".join(f"{e.id}: {e.answer or e.texts.get('text', '')}" for e in self.examples)
        return f"{self.k} demonstrations of '{self.pool.source}' (seed {self.seed}, order {self.order}) before '{self.template}': {shown}"

    def demonstrations(self, model: GenerationModel, picture: Tensor, question: str) -> Sequence[Demonstration]:
        return self._given if self._given is not None else [self._show(model, example) for example in self.examples]


def draw(pool: Dataset, k: int, seed: int, order: str) -> list[Example]:
    """k examples, one answer after the other in random turn, then in the order that is asked for."""
    import numpy as np

    rng = np.random.default_rng(seed)
    mixed = [pool.examples[i] for i in rng.permutation(len(pool.examples))]
    turns: dict[str, int] = {}
    ranked = []
    for place, example in enumerate(mixed):
        answer = example.answer or ""
        turns[answer] = turns.get(answer, 0) + 1
        ranked.append((turns[answer], place, example))
    drawn = [example for _, _, example in sorted(ranked, key=lambda entry: entry[:2])[:k]]
    place_of = {example.id: place for place, example in enumerate(pool.examples)}
    if order == "drawn":
        return drawn
    return sorted(drawn, key=lambda example: place_of[example.id], reverse=order == "reverse")
