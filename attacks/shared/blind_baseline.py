"""The blind baseline: can members be told from non-members without any model? Then the split says nothing of one.

Also what is learned on some identities and asked of others, without which neither a blind eye nor an attack may be believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.data.images import HEIF_SUFFIXES, SUFFIXES, StoredPicture
from vlaudit.records import BuiltIn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vlaudit.data.example import Example
    from vlaudit.records import Trial

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

FOLDS = 5
FARTHEST, FARTHEST_SQUARED = 8.0, 4.0
STRICTNESS = 1 / 8
WORD_FIT = 0.3
BUILT_IN = {
    "FOLDS": BuiltIn(meaning="parts of the pictures, of which each is scored by what was learned on the others", source="the usual convention of cross-validation"),
    "FARTHEST": BuiltIn(
        meaning="standard deviations from the middle that a property of a picture counts as at most, for the blind eye",
        source="our choice, because few that stand out are seen then, and none outweighs all",
    ),
    "FARTHEST_SQUARED": BuiltIn(meaning="the same where the property is squared", source="our choice, because squares outweigh the rest sooner"),
    "STRICTNESS": BuiltIn(
        meaning="strength of the ridge penalty on what is learned of members, by the blind eye and of several attacks, per picture learned on",
        source="our choice, because weaker ones learn single pictures by heart, which says nothing of others",
    ),
    "WORD_FIT": BuiltIn(
        meaning="inverse strength of the penalty on the blind eye's model of words (C of scikit-learn's logistic regression)",
        source="our choice, because words are many, and a rare one must not decide alone",
    ),
}  # fmt: skip


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
    size, picture = example.size, example.picture
    if size is None:
        return []
    name = picture.name if isinstance(picture, Path | StoredPicture) else ""
    return [size, size / pixels, *(float(name.lower().endswith(suffix)) for suffix in sorted(SUFFIXES | HEIF_SUFFIXES))]


TEXTS = ("label", "caption", "answer")  # what a trial may hold of words: of what was asked, and of what was scored


def word_features(trial: Trial) -> set[str]:
    """The words of a trial's label, question or caption, and answer, each text as a whole, and how long it is."""
    found: set[str] = set()
    for kind in TEXTS:
        text = str(trial.values.get(kind) or "").lower()
        if text:
            words = text.split()
            found |= {f"{kind}={text}", f"{kind} of {len(words)} words", f"{kind} of {len(text) // 4}", *(f"{kind}:{word}" for word in words)}
    return found


def blind_scores(
    features: Floats, words: Sequence[set[str]], members: Flags, identities: Sequence[str]
) -> dict[str, Floats]:
    """Out-of-fold scores (n,) that a picture is a member, by three blind eyes: of the picture and its file (a linear model of
    the values, and one of their squares, which sees what varies more or less), of the words (a linear model on every label and word, however many),
    and of both."""
    import numpy as np
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    def read(known: Any, truth: Flags, asked: Any) -> Floats:
        return np.asarray(LogisticRegression(C=WORD_FIT, solver="liblinear").fit(known, truth).decision_function(asked))

    quarter, middle, upper = np.quantile(features, [0.25, 0.5, 0.75], axis=0)
    scale = np.where(upper > quarter, (upper - quarter) / 1.35, features.std(axis=0))
    plain = ((features - middle) / np.where(scale > 1e-9, scale, np.inf)).clip(-FARTHEST, FARTHEST)  # few that stand out are seen, none outweighs all
    seen = [out_of_fold(_ranked(ridge), values, members, identities) for values in (plain, plain.clip(-FARTHEST_SQUARED, FARTHEST_SQUARED) ** 2)]
    eyes = {"pictures": np.mean(seen, axis=0)}
    if len(set().union(*words)) > 1:
        said = DictVectorizer().fit_transform([dict.fromkeys(sorted(own), 1.0) for own in words])
        eyes["words"] = out_of_fold(_ranked(read), said, members, identities)
        eyes["pictures and words"] = eyes["pictures"] + eyes["words"]
    return eyes


def normal_scores(columns: Floats) -> Floats:
    """(n, F) the columns' ranks as normal quantiles: no outlier outweighs all others."""
    import numpy as np
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri(rankdata(columns, axis=0) / (len(columns) + 1)))


def ridge(known: Floats, truth: Flags, asked: Floats) -> Floats:
    """Scores of the rows ``asked`` by a linear model that was learned on ``known`` (n, F), whose columns it standardises."""
    import numpy as np

    middle, spread = known.mean(axis=0), known.std(axis=0)
    spread = np.where(spread > 1e-9, spread, np.inf)
    x, y = (known - middle) / spread, truth - truth.mean()
    weights = np.linalg.solve(x.T @ x + STRICTNESS * len(x) * np.eye(x.shape[1]), x.T @ y)
    return np.asarray((asked - middle) / spread @ weights)


def out_of_fold(
    learn: Callable[[Any, Flags, Any], Floats], features: Any, members: Flags, identities: Sequence[str]
) -> Floats:
    """Scores (n,) by what was learned on other identities, on ``features`` (n, F)."""
    import numpy as np

    fold, scores = _folds(members, identities), np.zeros(len(members))
    for k in range(FOLDS):
        test = fold == k
        if test.any():
            scores[test] = learn(features[~test], members[~test], features[test])
    return scores


def _ranked(learn: Callable[[Any, Flags, Any], Floats]) -> Callable[[Any, Flags, Any], Floats]:
    """The scores as ranks within their fold: a fold with more members was learned from fewer, which would pull the AUC of pooled
    scores below .5."""
    from scipy.stats import rankdata

    def learn_ranks(known: Any, truth: Flags, asked: Any) -> Floats:
        ranks: Floats = rankdata(learn(known, truth, asked)) / (asked.shape[0] + 1)
        return ranks

    return learn_ranks


def _folds(members: Flags, identities: Sequence[str]) -> NDArray[np.int64]:
    """The fold (n,) of each: identities are whole, and of those that are members, that are not, and that are both, every
    fold has its part."""
    import numpy as np

    names, codes = np.unique(np.asarray(identities), return_inverse=True)
    inside, outside = (np.bincount(codes, weights=side, minlength=len(names)) > 0 for side in (members, ~members))
    rng, fold = np.random.default_rng(0), np.zeros(len(names), dtype=np.int64)
    for kind in (inside & ~outside, ~inside & outside, inside & outside):
        fold[rng.permutation(np.flatnonzero(kind))] = np.arange(kind.sum()) % FOLDS
    return fold[codes]


def weighted(columns: Mapping[str, Floats], members: Flags, identities: Sequence[str]) -> Floats:
    """One score (n,) of several, each bigger for members: their weights are learned on other identities than those scored, so that
    no attack is chosen by what it is tested on. No weight is negative, and their sum is 1: what few members show must neither be
    outweighed by chance nor be ranked among few."""
    import numpy as np
    from scipy.optimize import nnls

    def learn(known: Floats, truth: Flags, asked: Floats) -> Floats:
        strict = np.sqrt(STRICTNESS * len(known)) * np.eye(known.shape[1])
        weights, _ = nnls(np.vstack([known, strict]), np.r_[truth - truth.mean(), np.zeros(len(strict))])
        weights = weights if weights.any() else np.ones_like(weights)
        return np.asarray(asked @ weights / weights.sum())

    return out_of_fold(learn, normal_scores(np.column_stack(list(columns.values()))), members, identities)
