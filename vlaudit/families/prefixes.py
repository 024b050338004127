"""Learned keys and values before those of a transformer block's attention, which its own tokens attend to and which go no further.

The attention is found by what it is: torch's ``MultiheadAttention``, or a module with ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``. Its
weights stay the checkpoint's; only its arithmetic is written out here, for as long as a block carries a prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlaudit.errors import CapabilityError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def heads(block: torch.nn.Module) -> int:
    """Of a block's attention. Raises CapabilityError where there is none of a known kind."""
    return int(_attention(block).num_heads)


@contextmanager
def carrying(blocks: Sequence[torch.nn.Module], layers: Sequence[Tensor]) -> Iterator[None]:
    """While open, the first blocks attend to ``layers`` too, each (B, 2, M, H, D): M keys and M values for each picture and head."""
    found = [_attention(block) for block in blocks[: len(layers)]]
    try:
        for attention, prefix in zip(found, layers, strict=True):
            attention.forward = _with(attention, prefix)
        yield
    finally:
        for attention in found:
            vars(attention).pop("forward", None)


def _attention(block: torch.nn.Module) -> Any:
    import torch

    for part in block.modules():
        if isinstance(part, torch.nn.MultiheadAttention) or all(hasattr(part, f"{name}_proj") for name in ("q", "k", "v", "out")):
            return part
    raise CapabilityError("The attention of the tower's blocks is of a kind before which no learned keys and values can stand.")


def _with(attention: Any, prefix: Tensor) -> Callable[..., Any]:
    """What an attention gives for tokens (B, L, W), of itself alone, with a prefix."""
    import torch
    from torch.nn.functional import linear, scaled_dot_product_attention

    several = isinstance(attention, torch.nn.MultiheadAttention)

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        hidden = args[0] if args else kwargs["hidden_states"]
        turned = several and not attention.batch_first
        tokens = hidden.transpose(0, 1) if turned else hidden
        if several:
            parts = linear(tokens, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        else:
            parts = tuple(getattr(attention, f"{name}_proj")(tokens) for name in "qkv")
        query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in parts)
        before = prefix.to(key).permute(1, 0, 3, 2, 4)  # (2, B, H, M, D)
        mixed = scaled_dot_product_attention(query, torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2))
        out = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out.transpose(0, 1) if turned else out), None

    return forward
