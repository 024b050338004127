"""Changed pictures as files that anybody would send, and what targets of any family say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vlaudit.answers import same
from vlaudit.attacks.shared.questions import Asked, asked
from vlaudit.probe import Context, Needs
from vlaudit.records import Family

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from vlaudit.data.example import Example

TOKENS = 24  # most of an answer


@dataclass(frozen=True)
class Said:
    """What a target says of a file. ``names``: whether it names a label; None where that is no answer to what it was asked."""

    right: bool
    names: Callable[[str], bool | None]


Listener = Callable[[Sequence["Image"], Sequence["Example"]], list[Said]]


def makers(peers: Sequence[Context]) -> list[int]:
    """Who makes changes: the first prompt of each matcher that gives gradients."""
    found: dict[str, int] = {}
    for place, peer in enumerate(peers):
        if peer.target.family is Family.MATCHING and Needs.PIXEL_GRADIENTS in peer.target.capabilities:
            found.setdefault(peer.target.model.spec, place)
    return list(found.values())


def as_files(images: Tensor) -> list[Image]:
    """Pictures (N, 3, H, W) in [0, 1], rounded to 8 bits."""
    from torchvision.transforms.functional import to_pil_image

    return [to_pil_image((image.detach().cpu().clamp(0, 1) * 255).round().byte()) for image in images]


def listener(peer: Context) -> Listener:
    """Gives the files of labelled pictures with answers to a target, which reads them by its own processor, through its own prompt: a matcher names
    one of the labels, a generator is asked the picture's question."""
    if peer.target.family is Family.GENERATION:
        return partial(_answers, peer)
    return partial(_matches, peer, peer.target.classifier(peer.labels))


def _opened(peer: Context, files: Sequence[Image]) -> list[Tensor]:
    return [peer.target.model.preprocess(file).to(peer.device) for file in files]


def _matches(peer: Context, classifier: Callable[[Tensor], Tensor], files: Sequence[Image], examples: Sequence[Example]) -> list[Said]:
    import torch

    with torch.no_grad(), peer.remembering():
        named = classifier(torch.stack(_opened(peer, files))).argmax(dim=1).tolist()
    return [Said(peer.labels[k] == example.label, peer.labels[k].__eq__) for k, example in zip(named, examples, strict=True)]


def _answers(peer: Context, files: Sequence[Image], examples: Sequence[Example]) -> list[Said]:
    rows = asked(peer, examples)
    said: Any = peer.target.generate(_opened(peer, files), [row.question for row in rows], max_new_tokens=TOKENS)
    return [Said(row.right(answer), partial(_names, row, answer)) for row, answer in zip(rows, said, strict=True)]


def _names(row: Asked, answer: str, label: str) -> bool | None:
    return row.gives(answer, label) if any(same(choice, label) for choice in row.choices) else None
