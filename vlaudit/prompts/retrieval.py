"""Retrieval-based prompting (survey section 3.2.1): C = R(x, t), the k examples of a pool nearest to picture and question.

Sources: Rubin et al. 2021, "Learning to retrieve prompts" (arXiv:2112.08633); Liu et al. 2021 (arXiv:2101.06804), whose
order, the nearest last, is kept. R is the sum of two cosines in a matcher's feature space: between the pictures, and
between the texts (the question, and the demonstration's question or the document). A document without a picture is
compared with the picture by its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from vlaudit.errors import UsageError
from vlaudit.plugins import plugin
from vlaudit.prompts.pool import PoolPrompt, load_pool, whole_number
from vlaudit.prompts.specs import parse_options
from vlaudit.records import Family

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.data.dataset import Dataset
    from vlaudit.families.generation import Demonstration, GenerationModel
    from vlaudit.families.matching import MatchingModel

OPTIONS = ("file", "pool", "k", "embedder", "instruction")
EMBEDDER = "zoo:clean"


class Retrieval(PoolPrompt):
    """The k nearest examples of a pool, for each picture and question their own."""

    method = "retrieval"

    def __init__(self, pool: Dataset, k: int = 4, *, embedder: str = EMBEDDER, template: str = "{}") -> None:
        super().__init__(pool, k, template)
        self.embedder = embedder
        self.members = [example.sha256() for example in pool.examples]
        self.id = f"retrieval-{self.k}"
        self._features: tuple[tuple[Demonstration, ...], Tensor, Tensor] | None = None

    @classmethod
    def parse(cls, argument: str) -> Retrieval:
        """``retrieval:POOL``, or ``retrieval:pool=POOL,k=4,embedder=TARGET,instruction=…{}…``."""
        options = parse_options(argument, cls.method, OPTIONS)
        source = options.get("pool") or options.get("file")
        if not source:
            raise UsageError("The prompt 'retrieval' needs a pool.", "Write retrieval:pool=DIR,k=4.")
        return cls(
            load_pool(source), whole_number(options, "k", 4, 1), embedder=options.get("embedder", EMBEDDER),
            template=options.get("instruction", "{}"),
        )  # fmt: skip

    @property
    def text(self) -> str:
        return f"the {self.k} of '{self.pool.source}' nearest by {self.embedder}, the nearest last, before '{self.template}'"

    def demonstrations(self, model: GenerationModel, picture: Tensor, question: str) -> Sequence[Demonstration]:
        scores = self.scores(model, picture, question)
        pool = self.pool_of(model)
        nearest = scores.argsort(descending=True, stable=True)[: self.k].tolist()
        return [pool[index] for index in reversed(nearest)]

    def scores(self, model: GenerationModel, picture: Tensor, question: str) -> Tensor:
        """(N,): R(x, t) of every member of the pool, bigger is nearer."""
        import torch

        pool, embedder = self.pool_of(model), load_embedder(self.embedder, str(model.device))
        with torch.no_grad():
            if self._features is None or self._features[0] != pool:
                seen = [
                    embedder.encode_texts([shown.question]) if shown.picture is None else embed(embedder, shown.picture)
                    for shown in pool
                ]
                said = {text: embedder.encode_texts([text]) for text in {shown.question for shown in pool}}
                self._features = (pool, torch.cat(seen), torch.cat([said[shown.question] for shown in pool]))
            _, pictures, texts = self._features
            return pictures @ embed(embedder, picture)[0] + texts @ embedder.encode_texts([question])[0]

    def check(self, model: GenerationModel) -> None:
        super().check(model)
        load_embedder(self.embedder, str(model.device))


def embed(embedder: MatchingModel, picture: Tensor) -> Tensor:
    """Unit-norm features (1, D) of a picture (3, H, W) in [0, 1], through the embedder's own resize and crop."""
    from torchvision.transforms.functional import to_pil_image

    shown = to_pil_image(picture.detach().clamp(0, 1).cpu())
    return embedder.encode_images(embedder.preprocess(shown)[None].to(embedder.device))


@lru_cache(maxsize=4)
def load_embedder(name: str, device: str) -> MatchingModel:
    """The matching model that a TARGET names, without its prompt. Raises UsageError: it has to lie on this disk."""
    import torch

    from vlaudit.families.matching import MatchingModel
    from vlaudit.zoo import get

    spec = get(name.removeprefix("zoo:")).target_spec().model if name.startswith("zoo:") else name
    kind, colon, argument = spec.partition(":")
    if not colon or not argument:
        raise UsageError(f"'{name}' is not an embedder.", "Write zoo:NAME, hf:DIR or open_clip:local-dir:DIR.")
    backend = plugin("backends", kind)()
    if backend.is_remote(argument):
        raise UsageError(f"The embedder '{name}' is not on this disk.", "Download it first, and name its folder.")
    if backend.family(argument) is not Family.MATCHING:
        raise UsageError(f"The embedder '{name}' is no matching model.", "Name a CLIP-like one.")
    model = backend.load(argument, torch.device(device))
    assert isinstance(model, MatchingModel)
    return model
