"""A key-value cache layer with room: new tokens are written into it, where transformers' own copies all at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor


class RoomyLayer(DynamicLayer):
    """``rows`` copies of a layer that holds one, (1, heads, N, D), with room for so many more tokens. Not for gradients."""

    def __init__(self, layer: DynamicLayer, rows: int, room: int) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None
        self.dtype, self.device, self.is_initialized = layer.keys.dtype, layer.keys.device, True
        self._all: tuple[Tensor, Tensor] | None = (
            _spread(layer.keys, rows, room),
            _spread(layer.values, rows, room),
        )
        self._show(layer.keys.shape[-2])

    def _show(self, length: int) -> None:
        assert self._all is not None
        self.keys, self.values = (whole[..., :length, :] for whole in self._all)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        start, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._all is None or end > self._all[0].shape[-2]:
            self._all = None
            return super().update(key_states, value_states, *args, **kwargs)
        self._all[0][..., start:end, :] = key_states
        self._all[1][..., start:end, :] = value_states
        self._show(end)
        assert self.keys is not None and self.values is not None
        return self.keys, self.values


def _spread(one: Tensor, rows: int, room: int) -> Tensor:
    _, heads, length, width = one.shape
    whole = one.new_empty(rows, heads, length + room, width)
    whole[..., :length, :] = one
    return whole
