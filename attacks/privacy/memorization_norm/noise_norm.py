"""The norm of the text-conditional noise: how hard captions pull a denoiser at its first step, against fresh captions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.fresh_captions import LEAST_FRESH
from vlaudit.errors import CapabilityError, OutOfMemory
from vlaudit.probe import BuiltIn
from vlaudit.records import Trial
from vlaudit.statistics import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

FALSE_ALARMS = 0.01
LOWER, MIDDLE = 0.25, 0.5
LEAST_CENTRE = 20
BUILT_IN = {
    "FALSE_ALARMS": BuiltIn(
        meaning="share of the fresh captions that pull harder than what a caption's pull is measured by",
        source="Carlini et al. 2022 arXiv:2112.03570: an attack is judged at a low rate of false alarms",
    ),
    "LOWER": BuiltIn(
        meaning="quantile of captions' pulls, whose distance below their middle says how far they spread",
        source="our choice, because remembered captions are above the middle and must not count",
    ),
    "MIDDLE": BuiltIn(meaning="quantile of captions' pulls that is their middle", source="our choice, because half of the captions may be remembered and it stays"),
    "LEAST_CENTRE": BuiltIn(
        meaning="fresh captions of as many tokens for a caption to be compared with the middle of these, at least; else with that of all",
        source="our choice, because the middle of fewer differs by chance as much as lengths do",
    ),
}  # fmt: skip


def norms(target: Any, captions: Sequence[str], seeds: Sequence[int], *, all_steps: bool = False) -> list[list[float]]:
    """For every caption and seed the 2-norm of the denoiser's prediction for the caption minus that for nothing: at the
    first sampling step, or its mean over all steps of a guided, deterministic sampling.

    For a denoiser of noise this is the published metric; the others' predictions differ from noise by a factor that is
    the same for every caption."""
    import torch

    conditioning, model, found = target.encode(captions), target.model, []
    with torch.no_grad():
        for seed in seeds:
            latents = model.noise([seed]).expand(len(captions), -1, -1, -1)
            steps = model.sampling_timesteps() if all_steps else model.sampling_timesteps()[:1]
            pulls: list[Tensor] = []
            for t, following in zip(steps, [*steps[1:], None], strict=True):
                same = latents[:1] if not pulls else latents  # before the first step all latents are one
                blank = target.denoise(same, t, None)
                pull = target.denoise(latents, t, conditioning) - blank
                pulls.append(pull.flatten(1).double().norm(dim=1))
                if following is not None:
                    guided = blank + max(model.guidance, 1.0) * pull
                    clean, noise = model.to_sample(guided, latents, t), model.to_noise(guided, latents, t)
                    latents = model.add_noise(clean, noise, following)
            found.append(torch.stack(pulls).mean(dim=0))
    return torch.stack(found, dim=1).tolist()


def attribution(target: Any, caption: str, seed: int, most: int = 5) -> list[list[Any]]:
    """The tokens that move the norm most: each with its share of the gradient's norm over all token embeddings; none where memory
    is too short for that gradient."""
    import torch

    model, latents = target.model, target.model.noise([seed])
    first = model.sampling_timesteps()[0]
    with torch.no_grad():
        blank = target.denoise(latents, first, None)
    with torch.enable_grad():
        embeddings = target.token_embeddings([caption]).detach().requires_grad_()
        read = target.encode([caption], embeddings=embeddings)
        try:
            (target.denoise(latents, first, read) - blank).norm().backward()
        except (CapabilityError, OutOfMemory):
            return []
    assert embeddings.grad is not None
    ids = target.token_ids([caption])[0].tolist()
    length = min(len(model.tokenize(target.wording([caption])[0])), len(ids))
    sizes = embeddings.grad[0, :length].norm(dim=1)
    shares = (sizes / sizes.sum().clamp(min=1e-12)).tolist()
    order = sorted(range(length), key=lambda i: -shares[i])[:most]
    return [[model.token_text(ids[i]), round(shares[i], 4)] for i in order]


class Pull:
    """Log norms (captions, seeds) of the audited and of the fresh captions, centred on the fresh ones of their length."""

    def __init__(self, own: NDArray[np.float64], fresh: NDArray[np.float64]) -> None:
        self.own, self._fresh, self.fresh = own, fresh, len(fresh)

    @classmethod
    def of(cls, trials: list[Trial], fresh: list[Trial]) -> Pull | None:
        import numpy as np

        if len(fresh) < LEAST_FRESH or not trials:
            return None
        own, null = (np.log(np.array([t["norms"] for t in part]) + 1e-12) for part in (trials, fresh))
        lengths = np.array([t["tokens"] for t in fresh])
        centres = {n: np.median(null[lengths == n]) for n in set(lengths.tolist()) if (lengths == n).sum() >= LEAST_CENTRE}
        middle = np.median(null)
        shift = [np.array([centres.get(t["tokens"], middle) for t in part])[:, None] for part in (trials, fresh)]
        return cls(own - shift[0], null - shift[1])

    def familiarity(self) -> tuple[float, float]:
        """How much harder (a ratio) the middle audited caption pulls than the middle fresh one, and how much wider the audited ones spread
        below their middle."""
        import numpy as np

        (own_low, own), (low, middle) = (
            np.quantile(part.mean(axis=1), (LOWER, MIDDLE)) for part in (self.own, self._fresh)
        )
        return float(np.exp(own - middle)), float((own - own_low) / max(middle - low, 1e-9))

    def matched(self, widest: float) -> Pull:
        """The same with the fresh captions moved up to the audited ones' middle, and spread as wide (at most ``widest`` times), where these lie
        higher or wider: what most captions of a kind do is no sign of memory."""
        import numpy as np

        middle = float(np.median(self._fresh.mean(axis=1)))
        harder, wider = self.familiarity()
        stretch = min(max(1.0, wider), widest)
        rows = self._fresh.mean(axis=1, keepdims=True)
        moved = middle + max(0.0, float(np.log(harder))) + stretch * (rows - middle)
        return Pull(self.own, moved + self._fresh - rows)

    def rank_p(self) -> NDArray[np.float64]:
        """Conformal p-values: each caption's rank among the fresh ones."""
        import numpy as np

        null = np.sort(self._fresh.mean(axis=1))
        above = len(null) - np.searchsorted(null, self.own.mean(axis=1), side="left")
        return np.asarray((1 + above) / (len(null) + 1))

    def strength(self) -> NDArray[np.float64]:
        import numpy as np

        cut = np.quantile(self._fresh.mean(axis=1), 1 - FALSE_ALARMS)
        return np.asarray(np.exp(self.own.mean(axis=1) - cut))

    @cached_property
    def error(self) -> tuple[float, float]:
        """Standard errors of log strength: of a caption's mean over seeds (pooled over captions), of the threshold."""
        import numpy as np

        everything = np.vstack([self.own, self._fresh])
        rest = everything - everything.mean(axis=1, keepdims=True) - everything.mean(axis=0) + everything.mean()
        captions, seeds = everything.shape
        seed = np.sqrt((rest**2).sum() / ((captions - 1) * (seeds - 1)) / seeds)
        null, rng = self._fresh.mean(axis=1), np.random.default_rng(0)
        draws = rng.choice(null, (500, len(null)))
        return float(seed), float(np.quantile(draws, 1 - FALSE_ALARMS, axis=1).std())

    def interval(self, caption: int, level: float) -> Interval:
        """Of one caption's strength, at a level for all captions at once."""
        import numpy as np
        from scipy.stats import norm

        seed, cut = self.error
        reach = float(norm.isf((1 - level) / 2 / len(self.own))) * seed, float(norm.isf((1 - level) / 2)) * cut
        value = float(np.log(self.strength()[caption]))
        half = float(np.hypot(*reach))
        return Interval(float(np.exp(value - half)), float(np.exp(value + half)), level)
