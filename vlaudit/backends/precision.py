"""What a lower precision costs, measured when a model is loaded: the same pictures and texts are read in float32 too, where
that fits, and outputs and gradients compared. What differs much in 16 bits, or is NaN, is refused.

Weights in 16 bits are measured as they are loaded: a matcher, whose gradients attacks follow, is float32 unless asked otherwise. On a GPU
the products of float32 round their factors to TF32's ten bits, which is several times as fast, but only where that changes next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vlaudit.device import Loading, room
from vlaudit.errors import ModelError, OutOfMemory, foreign
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.families.base import Model
    from vlaudit.inspection.folder import ModelFolder

HEADROOM = 1.3  # of the weights' bytes, for what a small pass takes
LARGEST = 0.25  # a difference beyond which a model in 16 bits is another model
LEAST = 0.5  # cosine of gradients below which attacks would follow another model
TF32_LARGEST, TF32_LEAST = 0.01, 0.99  # the same for TF32, which is left out instead of refused
FP32 = "Use --dtype fp32."
M = TypeVar("M", bound="Model")


@dataclass(frozen=True)
class Outputs:
    """What a model makes of the same small input. ``values``: (N, K) each row a distribution, or what is drawn;
    ``gradients``: (N, D) with respect to the input, None where none arrive."""

    what: str
    values: Tensor
    gradients: Tensor | None = None
    drawn: bool = False

    def difference(self, other: Outputs) -> float:
        """0: the same, 1: nothing in common. Of distributions the largest total variation, of what is drawn the root mean square
        of the difference in units of its spread."""
        if self.drawn:
            return float((self.values - other.values).square().mean().sqrt() / other.values.std())
        return float((self.values - other.values).abs().sum(-1).max() / 2)

    def cosine(self, other: Outputs) -> float:
        """The smallest of the gradients, which both have."""
        import torch

        assert self.gradients is not None and other.gradients is not None
        return float(torch.nn.functional.cosine_similarity(self.gradients, other.gradients, dim=-1).min())


def in_precision(
    spec: str, build: Callable[[torch.dtype], M], dtype: torch.dtype, folder: ModelFolder | int, device: torch.device, how: Loading
) -> M:
    """The model that ``build`` loads in ``dtype``, held against the one that it loads in float32 before. ``folder``: its
    weights, or how many numbers they have. Its ``remarks`` say what was found. Raises ModelError."""
    import torch

    name = str(dtype).removeprefix("torch.")
    method = None if isinstance(folder, int) else folder.quantised
    if dtype == torch.float32 or how.before is not None or method:
        model = build(dtype)
        model.dtype = f"{name}, weights quantised ({method})" if method else name
        if device.type == "cuda" and dtype == torch.float32 and not method:
            round_products(model)
        return model
    elements = folder if isinstance(folder, int) else folder.elements
    expected, needed = None, int(4 * elements * HEADROOM)
    if not how.spread and needed < room(device):
        with suppress(OutOfMemory), foreign(f"'{spec}' cannot be computed in float32", "Its files do not fit together."):
            expected = outputs(build(torch.float32))
    with foreign(f"'{spec}' cannot be computed in {name} here", FP32):
        model = build(dtype)
        found = outputs(model)
    model.dtype = name
    said = f"'{spec}' is computed in {name}"
    if not torch.isfinite(found.values).all():
        raise ModelError(f"'{spec}' yields NaN in {name}.", FP32)
    if expected is None:
        model.remarks = [*model.remarks, f"{said}; this was not compared with float32, which takes {needed / 1e9:.0f} GB."]
        return model
    difference = found.difference(expected)
    said += f", where {found.what} differ from those in float32 by up to {difference:.2g}"
    if not difference <= LARGEST:
        raise ModelError(f"{said}.", FP32)
    if found.gradients is not None and expected.gradients is not None:
        cosine = found.cosine(expected)
        said += f", and gradients point the same way up to a cosine of {cosine:.3f}"
        if not cosine >= LEAST:
            raise ModelError(f"{said}.", FP32)
    model.remarks = [*model.remarks, f"{said}."]
    return model


def round_products(model: Model) -> None:
    """Let products of float32 round their factors to TF32 (Ampere and later) where outputs and gradients stay what they are: what differs
    by up to 0.01, with gradients of a cosine of at least 0.99. ``dtype`` and a remark say so."""
    exact = outputs(model)
    model.cut.products = "high"
    found = outputs(model)
    difference = found.difference(exact)
    said, alike = f"{found.what} differ by up to {difference:.2g}", difference <= TF32_LARGEST  # NaN is not
    if found.gradients is not None and exact.gradients is not None:
        cosine = found.cosine(exact)
        said += f", and gradients point the same way up to a cosine of {cosine:.3f}"
        alike = alike and cosine >= TF32_LEAST
    if alike:
        model.dtype = "float32 (products in TF32)"
        said = f"'{model.spec}' is computed in float32 with products in TF32: {said}."
    else:
        model.cut.products = "highest"
        said = f"'{model.spec}' is computed in float32 without TF32, with which {said}."
    model.remarks = [*model.remarks, said]


def cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Round a model's weights, as its library does that loads them so: what it computes itself (such as the frequencies of
    rotary embeddings) stays as it is."""
    stored = module.state_dict(keep_vars=True).values()
    for tensor in stored:
        if tensor.is_floating_point() and tensor.dtype != dtype:
            tensor.data = tensor.data.to(dtype)


def even_out(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Bring the plain weights of a quantised model to one precision: transformers leaves some as they are stored."""
    import torch

    for part in module.modules():
        if type(part).__module__.startswith(("torch.nn.", "transformers.")):
            for weight in part.parameters(recurse=False):
                if type(weight.data) is torch.Tensor and weight.is_floating_point():
                    weight.data = weight.data.to(dtype)


def outputs(model: Model) -> Outputs:
    """Of a few blurred random pictures and short texts; on the CPU."""
    from vlaudit.families.generation import GenerationModel
    from vlaudit.families.matching import MatchingModel
    from vlaudit.families.text_to_image import TextToImageModel

    if isinstance(model, MatchingModel):
        return _matched(model)
    if isinstance(model, GenerationModel):
        return _answered(model)
    assert isinstance(model, TextToImageModel)
    return _drawn(model)


TEXTS = ("a photo of a cat", "a red car", "two dogs", "the sea")


def _pictures(count: int, height: int, width: int) -> Tensor:
    import torch

    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def _matched(model: Model) -> Outputs:
    """Probabilities of texts for pictures, and gradients of each picture's margin for one text over the others."""
    import torch

    from vlaudit.families.matching import MatchingModel
    from vlaudit.families.pairs import PairModel

    assert isinstance(model, MatchingModel)
    pixels = _pictures(4, model.resolution, model.resolution).to(model.device).requires_grad_()
    if isinstance(model, PairModel):
        cosines = model.pairing(TEXTS)(model.encode_images(pixels))
    else:
        with torch.no_grad():
            texts = model.encode_texts(TEXTS)
        cosines = model.encode_images(pixels) @ texts.T
    (gradients,) = torch.autograd.grad((2 * cosines.diagonal() - cosines.mean(dim=1)).sum(), pixels)
    return Outputs("probabilities of texts", (model.logit_scale * cosines.detach()).softmax(-1).cpu(), gradients.flatten(1).cpu())


def _answered(model: Model) -> Outputs:
    """Probabilities of the tokens of an answer, and gradients of its likelihood with respect to the picture."""
    import torch
    from torchvision.transforms.functional import to_pil_image

    from vlaudit.families.generation import Conversation, GenerationModel, Turn

    assert isinstance(model, GenerationModel)
    picture = model.preprocess(to_pil_image(_pictures(1, 96, 96)[0])).to(model.device)
    if Needs.TOKEN_LOGITS not in model.capabilities:
        return Outputs("answers", torch.zeros(1, 1))
    with torch.no_grad():
        talk = Conversation((Turn("user", (picture, "what is this")),))
        (table,) = model.token_log_probs([talk], ["a cat"])
    gradients = None
    if Needs.PIXEL_GRADIENTS in model.capabilities:
        pixels = picture.clone().requires_grad_()
        talk = Conversation((Turn("user", (pixels, "what is this")),))
        (gradients,) = torch.autograd.grad(model.log_likelihood([talk], [["a cat"]]).sum(), pixels)
        gradients = gradients.flatten()[None].cpu()
    return Outputs("probabilities of an answer's tokens", table.exp().cpu(), gradients)


def _drawn(model: Model) -> Outputs:
    """Noise predicted halfway (of tokens: the scores of the first), and the picture of a latent, each as a share of its own spread."""
    import torch

    from vlaudit.families.text_to_image import TextToImageModel

    assert isinstance(model, TextToImageModel)
    found = []
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *model.latent_shape, generator=generator).to(model.device)
    with torch.no_grad():
        if Needs.NOISE_PREDICTIONS in model.capabilities:
            predicted = model.denoise(latents, model.train_timesteps // 2, model.encode_texts([TEXTS[0]]))
            found.append(predicted.flatten().cpu())
        elif Needs.GENERATED_PICTURES in model.capabilities:
            found.append(model.first_step(model.encode_texts([TEXTS[0]])).float().flatten().cpu())
        if Needs.GENERATED_PICTURES in model.capabilities:
            found.append(model.decode(model.blank(1)).flatten().cpu())
    return Outputs("predicted noise and pictures", torch.cat(found) if found else torch.tensor([0.0, 1.0]), drawn=True)
