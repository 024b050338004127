"""What a denoiser's errors say of a picture: the scores of four membership attacks, each bigger for a likelier member."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import Conditioning, TextToImageGenerator

LEVELS = (0.1, 0.3, 0.6)  # where the loss is taken, as shares of the training timesteps
PIA_LEVEL = 0.2
SECMI_LEVEL = 0.1
SHUFFLED_LEVEL = 1  # which of LEVELS is repeated with another picture's caption


def passes(hops: int) -> int:
    """Denoiser passes a picture."""
    return 2 * len(LEVELS) + 1 + 2 + hops + 2


class Likelihood:
    """Scores of clean latents under a target. Every draw of noise is the caller's, so a picture's scores depend neither
    on its batch nor on the arm."""

    def __init__(self, target: TextToImageGenerator, hops: int) -> None:
        """``hops``: deterministic steps from the clean latents to SecMI's level; the paper takes ten."""
        self.target, self.model, self.hops = target, target.model, hops

    def scores(self, latents: Tensor, noises: Tensor, own: Conditioning, other: Conditioning) -> dict[str, Tensor]:
        """(B,) each, of latents (B, c, h, w) with unit Gaussian ``noises`` (L, B, c, h, w), one for each of LEVELS.
        ``own``: the captions' conditioning; ``other``: that of other pictures' captions."""
        scores: dict[str, Tensor] = {}
        for level, (share, noise) in enumerate(zip(LEVELS, noises, strict=True)):
            t = self._timestep(share)
            noisy = self.model.add_noise(latents, noise, t)
            loss = _mean_square(self.target.predict_noise(noisy, t, own) - noise)
            blank = _mean_square(self.target.predict_noise(noisy, t, None) - noise)
            scores |= {f"loss {share}": -loss, f"clid {share}": blank - loss}
            if level == SHUFFLED_LEVEL:
                wrong = _mean_square(self.target.predict_noise(noisy, t, other) - noise)
                scores |= {"shuffled loss": -wrong, "shuffled clid": blank - wrong}
        return scores | {"pia": self._pia(latents, own), "secmi": self._secmi(latents, own)}

    def _timestep(self, share: float) -> float:
        return float(round(share * self.model.train_timesteps))

    def _pia(self, latents: Tensor, own: Conditioning) -> Tensor:
        """Proximal initialisation: the noise predicted for the clean latents stands for the true one; 4-norm."""
        t = self._timestep(PIA_LEVEL)
        first = self.target.predict_noise(latents, 0.0, own)
        again = self.target.predict_noise(self.model.add_noise(latents, first, t), t, own)
        return -(first - again).flatten(1).norm(p=4, dim=1)

    def _secmi(self, latents: Tensor, own: Conditioning) -> Tensor:
        """The t-error: how far one deterministic step up and down again leads away."""
        top = self._timestep(SECMI_LEVEL)
        steps = [round(top * hop / self.hops) for hop in range(self.hops + 1)]
        x = latents
        for start, end in pairwise(steps):
            x = self._move(x, start, end, own)
        beyond = top + steps[1]
        back = self._move(self._move(x, top, beyond, own), beyond, top, own)
        return -_mean_square(back - x)

    def _move(self, latents: Tensor, start: float, end: float, own: Conditioning) -> Tensor:
        """The deterministic (DDIM) transition between two noise levels."""
        prediction = self.target.denoise(latents, start, own)
        clean = self.model.to_sample(prediction, latents, start)
        return self.model.add_noise(clean, self.model.to_noise(prediction, latents, start), end)


def _mean_square(errors: Tensor) -> Tensor:
    return errors.flatten(1).square().mean(dim=1)
