"""PGN, prompt generation networks (survey sections 4.3 and 6.2): a small network makes tokens of each picture, which the tower reads beside it.

Source: Loedeman et al. 2022, "Prompt Generation Networks for Efficient Adaptation of Frozen Vision Transformers" (arXiv:2210.06466). A small
ResNet sees the picture and mixes each of K tokens from a library of V learned vectors, by a softmax over the library. They stand
behind the picture's own tokens and pass with them through the norm ahead of the blocks, where the tower has one. Gradients in the
pixels flow through the tower and through the network. A backdoor may live in the network alone.

A checkpoint of the code that the authors published is read as it is: the library ``tl_vectors``, and the network's tensors, from which
its shape follows. What they do not tell are options, whose defaults are the code's: ``act=softmax``, ``resolution=224``, and
``maxpool=yes`` (a pooling after the first layer). Labels are asked with a hard template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError
from vlaudit.families.towers import TowerTokens
from vlaudit.files import user_path
from vlaudit.prompts.by_picture import TokensByPicture
from vlaudit.prompts.files import tensor
from vlaudit.prompts.specs import parse_options
from vlaudit.prompts.template import PLAIN

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel

LIBRARY, NETWORK = "tl_vectors", "model."
OPTIONS = ("act", "resolution", "maxpool", "template")
DEFAULTS = {"act": "softmax", "resolution": "224", "maxpool": "yes", "template": PLAIN}
COUNTED = "num_batches_tracked"  # of a norm, in training


class PGN(TokensByPicture):
    """Tokens in the image tower that a network mixes for each picture of a ``library`` (V, W). ``network``: its tensors, by their names
    without ``model.``."""

    method = "pgn"
    noun = "vectors"

    def __init__(self, library: Tensor, network: Mapping[str, Tensor], *, settings: Mapping[str, str] | None = None,
                 base_model: str | None = None, members: Sequence[str] = (), path: Path | None = None) -> None:  # fmt: skip
        self.settings = {**DEFAULTS, **(settings or {})}
        resolution = self.settings["resolution"]
        if self.settings["act"] not in ("softmax", "sigmoid") or self.settings["maxpool"] not in ("yes", "no"):
            raise UsageError("PGN knows act=softmax and sigmoid, and maxpool=yes and no.", "Write one of them, or leave it out.")
        if not resolution.isdecimal() or not 8 <= int(resolution[:6]) <= 1024:
            raise UsageError(f"'resolution={resolution[:20]}' is no number of pixels from 8 to 1024.", "Write for example resolution=224.")
        self.library, self.network = library, network_of(network, self.settings["maxpool"] == "yes", path)
        width = self.network.outputs
        self.count, rest = divmod(width, len(library))
        if rest or not self.count:
            raise UsageError(
                f"The network in '{path}' gives {width} numbers, which are no mixtures of the {len(library)} vectors of its library.",
                "It was changed after training, or is another method's.",
            )
        super().__init__(self.settings["template"], base_model, members, path)

    @classmethod
    def parse(cls, argument: str) -> PGN:
        """``pgn:FILE``, or ``pgn:file=FILE,act=softmax,resolution=224,maxpool=yes,template=…{}…``: a vlaudit prompt file, which says the rest
        itself, or a checkpoint of the published code."""
        options = parse_options(argument, cls.method, ("file", *OPTIONS))
        if not options.get("file"):
            raise UsageError("The prompt 'pgn' needs its file.", "Write pgn:FILE, or pgn:file=FILE,resolution=224.")
        return cls.load(user_path(options.pop("file")), options)

    @classmethod
    def load(cls, path: Path, settings: Mapping[str, str] | None = None) -> PGN:
        content, ours = cls.content(path)
        if ours:
            given = settings or {}
            settings = {key: content.extra[key] for key in OPTIONS if key in content.extra}
            if any(settings.get(key, DEFAULTS[key]) != value for key, value in given.items()):
                raise UsageError(f"'{path}' says other settings of its own.", f"Leave {', '.join(f'{key}=' for key in given)} out.")
        library = tensor(content, LIBRARY, (2,), path)
        network: dict[str, Tensor] = {}
        for name in content.tensors:
            if name != LIBRARY:
                own = name.removeprefix(NETWORK)
                network[own] = content.tensors[name] if name.endswith(COUNTED) else tensor(content, name, (1, 2, 4), path)
        return cls(library, network, settings=settings, base_model=content.base_model, members=content.members, path=path)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {LIBRARY: self.library, **{NETWORK + name: value for name, value in self.network.state_dict().items()}}

    @property
    def extra(self) -> dict[str, str]:
        return self.settings

    @property
    def width(self) -> int:
        return self.library.shape[1]

    @property
    def text(self) -> str:
        return (
            f"{self.count} tokens in the image tower, which a network mixes for each picture of {len(self.library)} vectors "
            f"({self.settings['act']}), with '{self._words.template}'"
        )

    def tokens(self, model: MatchingModel, images: Tensor) -> Tensor:
        """(B, K, W): what the network makes of pictures."""
        import torch
        from torchvision.transforms.functional import resize

        network = self.network.to(images.device)

        def run(_: slice, part: Tensor) -> Tensor:
            logits = network(resize(model.normalised(part), [int(self.settings["resolution"])], antialias=True))
            logits = logits.unflatten(1, (self.count, len(self.library)))
            mixed = torch.softmax(logits, dim=-1) if self.settings["act"] == "softmax" else torch.sigmoid(logits)
            return mixed @ self.library.to(mixed)

        return model.cut("pictures of a prompt network", run, images)

    def image_features(self, model: MatchingModel, images: Tensor) -> Tensor:
        return model.encode_images(images, TowerTokens([self.tokens(model, images)], first=False, normed=True))

    @classmethod
    def fit(cls, model: MatchingModel, images: Tensor, targets: Tensor, labels: Sequence[str], *, size: int = 4, vectors: int = 16,
            channels: Sequence[int] = (8, 16), template: str = PLAIN, steps: int = 200, batch_size: int = 32, rate: float = 1e-2, seed: int = 0,
            members: Sequence[str] = (), progress: Callable[[int, float], None] | None = None) -> PGN:  # fmt: skip
        """Learn a network, one block for each of its ``channels``, and a library of ``vectors``, for ``size`` tokens, with cross-entropy, the
        model frozen. Deterministic in ``seed``.

        images: (N, 3, H, W) in [0, 1]; targets: (N,) int64 positions in ``labels``.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        library = (0.02 * torch.randn(vectors, model.image_tower.width, generator=generator)).to(model.device)
        settings = {"resolution": str(model.resolution), "maxpool": "no", "template": template}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            first = small_resnet(channels, range(1, len(channels)), size * vectors, False).state_dict()
        prompt = cls(library, first, settings=settings, base_model=model.sha256, members=members)
        network = prompt.network.to(model.device).train().requires_grad_()
        prompt.library.requires_grad_()
        with torch.no_grad():
            texts = prompt.label_features(model, labels)
        optimizer = torch.optim.Adam([prompt.library, *network.parameters()], lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            batch = torch.randperm(len(images), generator=generator)[:batch_size].to(images.device)
            logits = model.logit_scale * prompt.image_features(model, images[batch]) @ texts.T
            loss = torch.nn.functional.cross_entropy(logits, targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if progress:
                progress(step, float(loss.detach()))
        network.eval().requires_grad_(False)
        prompt.library.requires_grad_(False)
        return prompt


def network_of(state: Mapping[str, Tensor], pooled: bool, path: Path | None) -> Any:
    """The network whose tensors these are, frozen: the published small ResNet, or torchvision's ResNet-18. Raises UsageError."""
    import torch

    try:
        with torch.device("meta"):  # a file's shapes take no memory but that of its tensors
            if "conv1.weight" in state:
                from torchvision.models import resnet18

                network: Any = resnet18(weights=None, num_classes=len(state["fc.weight"]))
                network.outputs = len(state["fc.weight"])
            else:
                count = sum(name.startswith("blocks.") and name.endswith("net.0.weight") for name in state)
                halved = [place for place in range(count) if f"blocks.{place}.downsample.weight" in state]
                channels = [len(state[f"blocks.{place}.net.0.weight"]) for place in range(count)]
                network = small_resnet(channels, halved, len(state["output_net.2.weight"]), pooled)
        wrong = [name for names in network.load_state_dict(dict(state), strict=False, assign=True) for name in names]
        wrong += [name for name, value in network.state_dict().items() if value.shape != state[name].shape]
    except (KeyError, RuntimeError, IndexError) as error:
        wrong = [line.strip() for line in str(error).split("\n")][-1:]
    if wrong:
        raise UsageError(
            f"The network in '{path}' is not one of PGN's: {wrong[0][:200]} is lacking, too many, or of another shape.",
            "PGN's published small ResNet and ResNet-18 are read; give the checkpoint as the training code saved it.",
        )
    return network.eval().requires_grad_(False)


def small_resnet(channels: Sequence[int], halved: Sequence[int], outputs: int, pooled: bool) -> Any:
    """The published small ResNet: a first layer that halves the sides, a block for each of ``channels``, of which those at the places
    ``halved`` halve them too, the mean over places, and a linear layer. ``pooled``: the largest of 3 x 3 after the first layer."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before: int, after: int, halves: bool) -> None:
            super().__init__()
            stride = 2 if halves else 1
            self.net = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
            )  # fmt: skip
            self.downsample = nn.Conv2d(before, after, 1, 2) if halves else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            beside = x if self.downsample is None else self.downsample(x)
            return (self.net(x) + beside).relu()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            first = [nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()]
            self.input_net = nn.Sequential(*first, *([nn.MaxPool2d(3, 2, 1)] if pooled else []))
            befores = [channels[0], *channels]
            self.blocks = nn.Sequential(*(Block(befores[place], after, place in halved) for place, after in enumerate(channels)))
            self.output_net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], outputs))
            self.outputs = outputs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.output_net(self.blocks(self.input_net(x)))
            return found

    return Network()
