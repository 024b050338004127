"""PGN: tokens that a network makes of each picture stand in the tower as in the published code, whose files are read whole or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, linear, max_pool2d, relu
from torchvision.transforms.functional import resize

from tests.prompts.restated import LABELS, WIDTH, Towers, drawn, normalised, of_open_clip, of_transformers, pictures
from vlaudit.errors import UsageError
from vlaudit.prompts.pgn import PGN, small_resnet
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family

torch.set_num_threads(1)
TOKENS, VECTORS = 3, 5


def network(seed: int = 5) -> dict[str, Tensor]:
    """Tensors of the published small ResNet of two blocks, its norms as they are after training."""
    torch.manual_seed(seed)
    state = small_resnet([4, 8], [1], TOKENS * VECTORS, True).state_dict()
    return {name: value if "tracked" in name else value + 0.3 * torch.rand_like(value) for name, value in state.items()}


def resnet(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The same network by its tensors alone."""

    def normed(x: Tensor, name: str) -> Tensor:
        return batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = relu(normed(conv2d(x, state["input_net.0.weight"], stride=2, padding=1), "input_net.1"))
    x = max_pool2d(x, 3, 2, 1)
    for place, stride in enumerate((1, 2)):
        block = f"blocks.{place}"
        z = relu(normed(conv2d(x, state[f"{block}.net.0.weight"], stride=stride, padding=1), f"{block}.net.1"))
        z = normed(conv2d(z, state[f"{block}.net.3.weight"], padding=1), f"{block}.net.4")
        x = relu(z + (x if stride == 1 else conv2d(x, state[f"{block}.downsample.weight"], state[f"{block}.downsample.bias"], stride=2)))
    return linear(x.mean((2, 3)), state["output_net.2.weight"], state["output_net.2.bias"])


def checkpoint(path: Path, **more: Tensor) -> Path:
    state = {"tl_vectors": drawn(VECTORS, WIDTH)} | {f"model.{name}": value for name, value in network().items()}
    torch.save({name: value for name, value in (state | more).items() if value is not None}, path)
    return path


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return of_transformers(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("act", ["softmax", "sigmoid"])
@pytest.mark.parametrize("make", [of_transformers, of_open_clip])
def test_scores_and_gradients_are_those_of_the_published_equations(tmp_path: Path, make: Callable[[Path], Towers], act: str) -> None:
    own = make(tmp_path)
    prompt = PGN.parse(f"file={checkpoint(tmp_path / 'pgn.pt')},resolution=40,act={act}")
    slopes = []
    for mine in (True, False):
        pixels = pictures().requires_grad_()
        if mine:
            logits = prompt.bind(own.model).classifier(LABELS)(pixels)
            found = logits.detach()
        else:
            mixture = resnet(resize(normalised(pixels), [40], antialias=True), network()).view(4, TOKENS, VECTORS)
            mixture = mixture.softmax(-1) if act == "softmax" else mixture.sigmoid()
            tokens = torch.einsum("bkv,vw->bkw", mixture, drawn(VECTORS, WIDTH))
            features = own.seen(pixels, lambda _, hidden: hidden, ahead=lambda hidden, tokens=tokens: torch.cat([hidden, tokens], 1))  # type: ignore[misc]
            logits = own.scale * features @ own.model.encode_texts([f"a photo of a {label}" for label in LABELS]).T
            torch.testing.assert_close(found, logits.detach(), atol=1e-5 * own.scale, rtol=0)
        logits[:, 0].sum().backward()
        assert pixels.grad is not None
        slopes.append(pixels.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-4 * float(slopes[1].abs().max()))


def test_fit_learns_network_and_library_and_repeats(towers: Towers, tmp_path: Path) -> None:
    model, targets = towers.model, torch.arange(12) % 3
    losses: list[float] = []
    settings: dict[str, Any] = {"size": 2, "vectors": 4, "channels": (4, 8), "steps": 25, "batch_size": 12, "rate": 3e-2, "members": ["ab"]}
    first = PGN.fit(model, pictures(12), targets, LABELS, progress=lambda _, loss: losses.append(loss), **settings)
    again = PGN.fit(model, pictures(12), targets, LABELS, **settings)
    assert torch.equal(first.library, again.library) and losses[-1] < losses[0] - 0.02
    first.save(tmp_path / "p.safetensors")
    loaded: Any = parse_prompt(f"pgn:{tmp_path / 'p.safetensors'}", Family.MATCHING)
    torch.testing.assert_close(loaded.bind(model).classifier(LABELS)(pictures()), first.bind(model).classifier(LABELS)(pictures()))
    assert (loaded.members, loaded.base_model, loaded.settings) == (["ab"], model.sha256, first.settings)
    with pytest.raises(UsageError, match="settings of its own"):
        PGN.parse(f"file={tmp_path / 'p.safetensors'},resolution=100")


def test_a_resnet_18_is_read_too(towers: Towers, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    state = {f"model.{name}": value for name, value in resnet18(num_classes=2 * VECTORS).state_dict().items()}
    torch.save({"tl_vectors": drawn(VECTORS, WIDTH), **state}, tmp_path / "pgn.pt")
    prompt = PGN.parse(f"file={tmp_path / 'pgn.pt'},resolution=32")
    assert prompt.tokens(towers.model, pictures()).shape == (4, 2, WIDTH)


def test_what_is_not_pgns_is_refused_in_a_sentence(towers: Towers, tmp_path: Path) -> None:
    path, huge = tmp_path / "pgn.pt", torch.zeros(2**20, 1, 1, 1)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"tl_vectors": None}, "lacks the tensor 'tl_vectors'"),
        ({"tl_vectors": drawn(4, WIDTH)}, "no mixtures of the 4 vectors"),
        ({"model.output_net.2.bias": None}, "output_net.2.bias"),
        ({"clip_model.proj": drawn(2, 2)}, "clip_model.proj"),
        ({"model.blocks.1.net.3.weight": drawn(8, 8, 1, 1)}, "blocks.1.net.3.weight"),
        ({f"model.blocks.{place}.net.0.weight": huge for place in (0, 1)}, "not one of PGN's"),
        ({"model.blocks.7.net.0.weight": drawn(8, 8, 3, 3)}, "not one of PGN's"),
    ]
    for change, said in changes:
        with pytest.raises(UsageError, match=said):
            PGN.parse(str(checkpoint(path, **change)))
    for option in ("act=tanh", "maxpool=maybe", "resolution=7", "resolution=1000000", "layers=3"):
        with pytest.raises(UsageError):
            PGN.parse(f"file={checkpoint(path)},{option}")
    with pytest.raises(UsageError, match=r"40 wide, but the image tower of .* is 48 wide"):
        PGN.parse(str(checkpoint(path, tl_vectors=drawn(VECTORS, 40)))).bind(towers.model)
