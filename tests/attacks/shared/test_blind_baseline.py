"""The blind baseline sees pictures, files, labels and captions, and no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vlaudit.attacks.shared.blind_baseline import blind_features, blind_scores
from vlaudit.data.example import Example


def test_blind_features_see_the_file_but_no_label(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    inline = blind_features(Example("x", pixels, "cat", member=True))
    filed = blind_features(Example("y", path, "dog", member=False))
    assert filed[: len(inline)] == inline
    assert path.stat().st_size in filed
    assert all(np.isfinite(filed))


def test_blind_scores_read_captions_and_only_if_there_are_any() -> None:
    rng = np.random.default_rng(0)
    features, members = rng.normal(size=(120, 3)), np.arange(120) < 60
    identities = [str(i) for i in range(120)]
    told = blind_scores(features, [""] * 120, members, identities, ["the cat" if m else "a cat" for m in members])
    assert told[members].min() > told[~members].max()
    plain = blind_scores(features, [""] * 120, members, identities)
    assert np.array_equal(plain, blind_scores(features, [""] * 120, members, identities, [""] * 120))
