"""The scorer: a matcher under a prompt that says what a generated picture shows.

It is a named, replaceable part of an audit (``--scorer TARGET``), and it errs. So it never names an attribute without its
measured error: :meth:`Scorer.reader` comes with a :class:`Calibration`, the confusion matrix on labelled pictures that it
did not learn from, which probes journal and carry into their intervals. The bundled matcher has seen emoji alone: it stands in
only for specimens, and where the audit's own labelled pictures show that it recognises them (:func:`doubt`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlaudit.errors import NotAssessed
from vlaudit.records import BuiltIn
from vlaudit.statistics.misclassification import Confusion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vlaudit.data.dataset import Dataset
    from vlaudit.data.example import Example
    from vlaudit.families.matching import ImageTextMatcher

DEFAULT = "zoo:clean"
LABELLED = "zoo:captions"
"""Pictures to learn an attribute from, and to measure the error on, where the audit's own data do not have it."""
LEAST = 10
MOST = 3000
"""Labelled pictures that are looked at; more change nothing."""
RECOGNISED = 0.75
VOUCHED, LOOKED_AT = 0.8, 300
FOLDS = 5
BUILT_IN = {
    "LEAST": BuiltIn(
        meaning="labelled pictures that a scorer needs of a value, at least, to learn it and to measure its error on it",
        source="our choice, because even without an error fewer allow one picture in three to be read wrong",
    ),
    "RECOGNISED": BuiltIn(
        meaning="share of other texts that a text must fit a picture better than, for the picture to show it",
        source="our choice, because a picture of something else passes one time in four only",
    ),
    "VOUCHED": BuiltIn(
        meaning="share of the audit's own labelled pictures that a scorer which nobody named must recognise, at the lower end",
        source="our choice, because what a scorer says that is wrong more often is not known well enough to be carried",
    ),
    "LOOKED_AT": BuiltIn(meaning="labelled pictures that this is asked of, at most", source="our choice, because so many tell the share to within 5 points"),
}


def doubt(scorer: Callable[[], Scorer], data: Dataset) -> str | None:
    """Why a matcher that nobody named cannot say what pictures like these show, or None where it recognises them."""
    from vlaudit.statistics import rate_interval
    from vlaudit.statistics.base import ERROR_LEVEL

    cure = "Name a matching model that knows such pictures with --scorer TARGET, such as --scorer open_clip:ViT-B-32/openai."
    told = [(example, text) for example in data.audit if (text := example.label or example.texts.get("text"))]
    texts = sorted({text for _, text in told})
    if len(told) < LEAST or len(texts) < 2:
        return f"no scorer is named that says what pictures of this pipeline show, and the data have no labelled pictures to measure the bundled one on. {cure}"
    told = told[:: max(1, -(-len(told) // LOOKED_AT))]
    right = scorer().recognised([example for example, _ in told], [texts.index(text) for _, text in told], texts)
    low = rate_interval(sum(right), len(right), level=ERROR_LEVEL, side="lower").low
    if low >= VOUCHED:
        return None
    return (
        f"no scorer is named, and the bundled one recognises {sum(right)} of {len(right)} labelled pictures of {data.source} "
        f"(at least {low:.0%}, needed {VOUCHED:.0%}). {cure}"
    )


def readable(
    data: Dataset, attribute: str, values: Sequence[str] | None = None, texts: Mapping[str, str] | None = None
) -> tuple[Dataset, list[str], list[str]]:
    """The data whose pictures have an attribute (the bundled ones where those of an audit have none), its values with enough of them for a
    scorer's error to be measured, and the others. Raises NotAssessed where these are fewer than two."""
    data = _labelled(data, attribute)
    counts = Counter(value for example in data.audit if (value := example.attributes.get(attribute)))
    wanted = [value for value in (values or sorted(counts)) if texts is None or value in texts]
    kept = [value for value in wanted if counts[value] >= LEAST]
    if len(kept) < 2:
        raise NotAssessed(
            f"the scorer's error on '{attribute}' cannot be measured: fewer than two of its values have {LEAST} "
            f"labelled pictures in {data.source}.",
            "Add pictures with that column to --data.",
        )
    return data, kept, [value for value in values or sorted(counts) if value not in kept]


def ranks(scores: Tensor, own: Sequence[int]) -> list[float]:
    """For each row of scores (B, C) the share of other columns that are lower than its own, ties counted half."""
    return [
        float(((row < row[place]).double().sum() + ((row == row[place]).double().sum() - 1) / 2) / max(len(row) - 1, 1))
        for row, place in zip(scores, own, strict=True)
    ]


@dataclass(frozen=True)
class Calibration:
    """How well a scorer tells the values of one attribute apart."""

    attribute: str
    values: list[str]
    confusion: list[list[int]]  # (K, K) counts of labelled pictures: rows are true values, columns what the scorer said
    identities: list[int]  # how many different people or things stand behind each row
    labels: dict[str, list[list[int]]]  # the confusion among the pictures of each label, where they have one
    source: str  # of the labelled pictures
    method: str  # how values are told apart, in words
    left_out: list[str]  # values with too few labelled pictures

    @cached_property
    def measured(self) -> Confusion:
        """The same counts, each identity weighing as much as one picture."""
        return Confusion.of(self.confusion, self.identities, self.labels)

    def record(self) -> dict[str, Any]:
        """For a trial."""
        return asdict(self)


@dataclass(frozen=True)
class Reader:
    """Names one attribute of pictures, with the error it makes."""

    calibration: Calibration
    read: Callable[[Tensor], list[int]]
    """Pictures (B, 3, H, W) in [0, 1] to positions in ``calibration.values``."""


class Scorer:
    """Names generated pictures among given labels, zero-shot, or by an attribute of labelled pictures."""

    def __init__(self, target: ImageTextMatcher, spec: str) -> None:
        self.target = target
        self.spec = spec
        self._readers: dict[tuple[object, ...], Reader] = {}
        self._features: dict[tuple[str, str], NDArray[np.float64]] = {}  # (V, D) by data and example
        self._last: tuple[Tensor, NDArray[np.float64]] | None = None  # pictures seen last and their views' features

    def prepare(self, images: Tensor) -> Tensor:
        """Generated pictures (B, 3, H, W) in [0, 1] as the matcher sees pictures: through its own resize and crop."""
        import torch
        from torchvision.transforms.functional import to_pil_image

        model = self.target.model
        pictures = [to_pil_image(image) for image in images.detach().clamp(0, 1).cpu()]
        return torch.stack([model.preprocess(picture) for picture in pictures]).to(model.device)

    def features(self, images: Tensor) -> Tensor:
        """Unit-norm image features (B, D) of generated pictures."""
        import torch

        with torch.no_grad():
            return self.target.image_features(self.prepare(images))

    def scores(self, images: Tensor, labels: Sequence[str]) -> Tensor:
        """Logits (B, C) of generated pictures for each label."""
        import torch

        with torch.no_grad():
            return self.target.classifier(labels)(self.prepare(images))

    def name(self, images: Tensor, labels: Sequence[str]) -> list[int]:
        """The position in ``labels`` of what each picture shows."""
        return [int(index) for index in self.scores(images, labels).argmax(dim=1)]

    def recognised(self, examples: Sequence[Example], own: Sequence[int], texts: Sequence[str]) -> list[bool]:
        """Whether each labelled picture fits the text at its position of ``own`` better than most of the others."""
        import torch

        scores = torch.stack(self._in_batches(examples, lambda images: self.scores(images, texts)))
        return [rank >= RECOGNISED for rank in ranks(scores, own)]

    def reader(self, data: Dataset, attribute: str, *, values: Sequence[str] | None = None,
               texts: Mapping[str, str] | None = None) -> Reader:  # fmt: skip
        """Tells the values of an attribute column apart, with the confusion measured on the audit's pictures.

        Without ``texts``, a linear discriminant on the scorer's image features (Ledoit-Wolf shrinkage, equal priors; each
        picture in several views, mirrored and shifted, over which its log-probabilities are averaged) is learned from the data's other pictures (its training split, members), or by cross-fitting over identities where
        there are too few of those. ``texts`` (value to phrase, such as "a woman") names the values zero-shot instead.
        Where no picture of ``data`` has the attribute, the bundled labelled pictures stand in.

        Raises NotAssessed where fewer than two values have enough labelled pictures.
        """
        key = (data.source, len(data), attribute, tuple(values or ()), tuple(sorted((texts or {}).items())))
        if key not in self._readers:
            self._readers[key] = self._make(data, attribute, values, texts)
        return self._readers[key]

    def _make(self, data: Dataset, attribute: str, values: Sequence[str] | None,
              texts: Mapping[str, str] | None) -> Reader:  # fmt: skip
        import numpy as np

        data, kept, left_out = readable(data, attribute, values, texts)
        measured = _some(data.audit, attribute, kept)
        truth = np.array([kept.index(example.attributes[attribute]) for example in measured])
        if texts is not None:
            phrases = [texts[value] for value in kept]

            def read(images: Tensor) -> list[int]:
                return self.name(images, phrases)

            said, method = np.array(self._in_batches(measured, read)), "zero-shot texts"
        else:
            said, head, method = self._head(data, measured, attribute, kept)

            def read(images: Tensor) -> list[int]:
                return [int(k) for k in head.name(self._views(images))]

        confusion = np.zeros((len(kept), len(kept)), dtype=int)
        labels = {example.label: np.zeros_like(confusion) for example in measured if example.label}
        for example, true, named in zip(measured, truth, said, strict=True):
            confusion[true, named] += 1
            if example.label:
                labels[example.label][true, named] += 1
        identities = [
            len({e.identity for e, k in zip(measured, truth, strict=True) if k == row}) for row in range(len(kept))
        ]
        by_label = {label: own.tolist() for label, own in sorted(labels.items())}
        calibration = Calibration(
            attribute, kept, confusion.tolist(), identities, by_label, data.source, method, left_out
        )
        return Reader(calibration, read)

    def _head(self, data: Dataset, measured: Sequence[Example], attribute: str,
              values: list[str]) -> tuple[NDArray[np.int64], _Head, str]:  # fmt: skip
        """What a head says of pictures it has not learned from, the head, and how it came about."""
        import numpy as np

        shown = {example.id for example in data.audit}
        others = _some([example for example in data.examples if example.id not in shown], attribute, values)
        learned_from = Counter(example.attributes[attribute] for example in others)
        features = self._features_of(data, measured)
        if min(learned_from[value] for value in values) >= LEAST:
            taught = np.array([values.index(example.attributes[attribute]) for example in others])
            head = _Head(self._features_of(data, others), taught)
            return head.name(features), head, f"a linear discriminant learned from {len(others)} other pictures"
        truth = np.array([values.index(example.attributes[attribute]) for example in measured])
        people = np.array([example.identity for example in measured])
        said, head = _cross_fitted(features, truth, people)
        return said, head, f"a linear discriminant, cross-fitted on {len(measured)} pictures"

    def _features_of(self, data: Dataset, examples: Sequence[Example]) -> NDArray[np.float64]:
        """(N, V, D): features of labelled pictures in all views; each picture is seen once an audit."""
        import numpy as np

        new = [example for example in examples if (data.source, example.id) not in self._features]
        rows = self._in_batches(new, self._views)
        self._features.update({(data.source, example.id): row for example, row in zip(new, rows, strict=True)})
        return np.stack([self._features[data.source, example.id] for example in examples])

    def _views(self, images: Tensor) -> NDArray[np.float64]:
        """(B, V, D): features of pictures as they are, mirrored, and shifted by a sixteenth of their size. Those seen last are
        kept, because several attributes are read off the same tensor in turn."""
        import torch

        if self._last is not None and self._last[0] is images:
            return self._last[1]
        prepared = self.prepare(images)
        step = max(1, prepared.shape[-1] // 16)
        padded = torch.nn.functional.pad(prepared, (step,) * 4, mode="replicate")
        height, width = prepared.shape[-2:]
        shifts = [(step, 0), (step, 2 * step), (0, step), (2 * step, step)]
        views = [prepared, prepared.flip(-1)]
        views += [padded[..., top : top + height, left : left + width] for top, left in shifts]
        with torch.no_grad():
            seen = [self.target.image_features(view) for view in views]
        self._last = images, torch.stack(seen, dim=1).double().cpu().numpy()
        return self._last[1]

    def _in_batches(self, examples: Sequence[Example], look: Callable[[Tensor], Any]) -> list[Any]:
        import torch
        from torchvision.transforms.functional import to_tensor

        found: list[Any] = []
        for start in range(0, len(examples), 64):
            pictures = [example.open() for example in examples[start : start + 64]]
            if len({picture.size for picture in pictures}) == 1:
                found += list(look(torch.stack([to_tensor(picture) for picture in pictures])))
            else:
                for picture in pictures:
                    found += list(look(to_tensor(picture)[None]))
        return found


def _labelled(data: Dataset, attribute: str) -> Dataset:
    """The data, or the bundled ones where the data do not have the attribute."""
    from vlaudit.data.dataset import load_dataset

    if any(example.attributes.get(attribute) for example in data.audit):
        return data
    return load_dataset(LABELLED)


def _some(examples: Sequence[Example], attribute: str, values: Sequence[str]) -> list[Example]:
    """The examples that have one of the values, thinned out evenly where there are very many."""
    have = [example for example in examples if example.attributes.get(attribute) in values]
    return have[:: max(1, -(-len(have) // MOST))]


class _Head:
    """Linear discriminant analysis of views (N, V, D) with Ledoit-Wolf shrinkage. The priors are equal, whatever the
    labelled pictures': a rare group is not read less often for being rare there."""

    def __init__(self, features: NDArray[np.float64], truth: NDArray[np.int64]) -> None:
        import numpy as np
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        count, views, width = features.shape
        values = len(np.unique(truth))
        self._lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(values, 1 / values))
        self._lda.fit(features.reshape(count * views, width), np.repeat(truth, views))

    def name(self, features: NDArray[np.float64]) -> NDArray[np.int64]:
        """(N,): the value with the highest log-probability on average over the views."""
        import numpy as np

        count, views, width = features.shape
        scores = self._lda.predict_proba(features.reshape(count * views, width))
        return np.log(np.maximum(scores, 1e-13)).reshape(count, views, -1).mean(axis=1).argmax(axis=1)


def _cross_fitted(
    features: NDArray[np.float64], truth: NDArray[np.int64], people: NDArray[np.str_]
) -> tuple[NDArray[np.int64], _Head]:
    """What heads that have not seen a picture's identity say of it, and the head learned from all pictures."""
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    said = np.empty_like(truth)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for seen, unseen in folds.split(features[:, 0], truth, people):
        said[unseen] = _Head(features[seen], truth[seen]).name(features[unseen])
    return said, _Head(features, truth)
