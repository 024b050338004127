"""The blind baseline: can members be told from non-members without any model? Then the split says nothing of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.data.images import SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlaudit.data.example import Example

_MAX_LABELS = 50  # beyond this the labels are too thin to be features
_MAX_WORDS = 50
_FOLDS = 5


def blind_features(example: Example) -> list[float]:
    """Colour and frequency statistics, a 4 x 4 thumbnail and the file's properties: nothing that a model made."""
    import numpy as np

    image = example.open()
    small = np.asarray(image.resize((32, 32))).astype(float) / 255
    grey = small.mean(axis=2)
    spectrum = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(grey))))
    rows, columns = np.indices(grey.shape) - 16
    ring = np.minimum(np.hypot(rows, columns) // 3, 5).astype(int)
    bands = np.bincount(ring.ravel(), weights=spectrum.ravel()) / np.bincount(ring.ravel())
    tones = np.histogram(grey, bins=8, range=(0, 1))[0] / grey.size
    colours = [*small.mean(axis=(0, 1)), *small.std(axis=(0, 1)), float(np.ptp(small, axis=2).mean())]
    thumbnail = small.reshape(4, 8, 4, 8, 3).mean(axis=(1, 3)).ravel()
    size = [image.width, image.height, *_file(example, image.width * image.height)]
    values = [*colours, *tones, *bands, *thumbnail, *size]
    return [round(float(value), 5) for value in values]


def _file(example: Example, pixels: int) -> list[float]:
    if not isinstance(example.picture, Path):
        return []
    size = example.picture.stat().st_size
    return [size, size / pixels, *(float(example.picture.suffix.lower() == suffix) for suffix in sorted(SUFFIXES))]


def caption_features(captions: Sequence[str]) -> NDArray[np.float64]:
    """(n, F): words and characters of each caption, and which of the most telling words (neither rare nor in nearly
    every caption) it holds."""
    import numpy as np

    words = [caption.lower().split() for caption in captions]
    known = Counter(word for said in words for word in set(said))
    telling = [word for word, count in known.items() if 0.02 <= count / len(words) <= 0.98]
    telling = sorted(telling, key=lambda word: (abs(known[word] / len(words) - 0.5), word))[:_MAX_WORDS]
    lengths = [[len(said), len(caption)] for said, caption in zip(words, captions, strict=True)]
    return np.array([[*length, *(word in said for word in telling)] for length, said in zip(lengths, words, strict=True)],
                    dtype=float)  # fmt: skip


def blind_scores(
    features: NDArray[np.float64], labels: Sequence[str], members: NDArray[np.bool_], identities: Sequence[str],
    captions: Sequence[str] = (),
) -> NDArray[np.float64]:  # fmt: skip
    """Out-of-fold scores (n,) that a picture is a member: the mean of a linear model and a forest, cross-validated so
    that no identity is in both parts. Labels are features too: members of other labels are told by their loss. So are
    captions: those of members may be worded otherwise. Scores are ranks within their fold, because a fold with more
    members was learned from fewer, which would pull the AUC of pooled scores below .5."""
    import numpy as np
    from scipy.stats import rankdata
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    known = np.unique(list(labels))
    if len(known) <= _MAX_LABELS:
        features = np.hstack([features, np.array(labels)[:, None] == known])
    if any(captions):
        features = np.hstack([features, caption_features(captions)])
    scores = np.zeros(len(members))
    for train, test in StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(features, members, identities):
        linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=500))
        forest = RandomForestClassifier(60, min_samples_leaf=5, random_state=0)
        chances = [m.fit(features[train], members[train]).predict_proba(features[test])[:, 1] for m in (linear, forest)]
        scores[test] = rankdata(np.mean(chances, axis=0)) / (len(test) + 1)
    return scores
