"""Learned tokens inside a transformer tower: at its input, among its tokens, and again at the input of its deeper blocks.

One mechanism for all prompts that live in a tower, of pictures or of texts: hooks on the blocks, while the checkpoint's own tower
runs. Blocks, widths, the norm ahead of them and the class token are found by what the modules are and by what passes through
them once, not by the names of architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from vlaudit.errors import CapabilityError, ran_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COARSE = 1e-2  # relative difference that rounding to bfloat16 makes at most, and a little


@dataclass(frozen=True)
class TowerTokens:
    """Learned tokens among those of an image tower.

    layers: what block 0, 1, … reads, (M, W), or (B, M, W) with own tokens for each picture, in the place of the tokens that the block before
    was given; None: what became of these. After the last block they are taken out, so that pooling sees the tower's own tokens.
    first: whether they stand behind the class token (where there is none: first), and not last.
    normed: whether those of block 0 pass through the norm that a tower has ahead of its blocks.
    """

    layers: Sequence[Tensor | None]
    first: bool = True
    normed: bool = False

    @property
    def given(self) -> list[Tensor]:
        return [tokens for tokens in self.layers if tokens is not None]

    def with_values(self, values: Sequence[Tensor]) -> TowerTokens:
        """The same with other values, in order."""
        left = iter(values)
        return replace(self, layers=[None if tokens is None else next(left) for tokens in self.layers])


class Tower:
    """The transformer blocks of a module, measured while ``run`` passes a batch of two or more through it.

    width: of its tokens; depth: of blocks; length: tokens that a block reads; lead: 1 where the first is a class token, else 0; norm:
    the module that makes what block 0 reads, if that is a norm. ``grows``: whether it must read more tokens than its own, which is tried.
    Raises CapabilityError where there are no such blocks, or they do not.
    """

    def __init__(self, module: torch.nn.Module, run: Callable[[], object], what: str, grows: bool = False) -> None:
        import torch

        self.module, self._what = module, what
        self.blocks = _blocks(module)
        seen: list[tuple[int, ...]] = []
        norms: list[tuple[torch.nn.Module, Any]] = []
        self.patches = 0
        self.norm: torch.nn.Module | None = None

        def block(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = _first(args, kwargs)
            if not seen:
                self.norm = next((norm for norm, output in reversed(norms) if output is hidden), None)
            seen.append(tuple(hidden.shape))

        def conv(_module: torch.nn.Module, _args: object, output: Tensor) -> None:
            self.patches = self.patches or prod(output.shape[2:])

        def normed(module: torch.nn.Module, _args: object, output: Tensor) -> None:
            if not seen:
                norms.append((module, output))

        with ExitStack() as stack, torch.no_grad():
            for part in module.modules():
                if isinstance(part, torch.nn.Conv2d):
                    _hooked(stack, part.register_forward_hook(conv))
                elif isinstance(part, torch.nn.LayerNorm):
                    _hooked(stack, part.register_forward_hook(normed))
            for part in self.blocks:
                _hooked(stack, part.register_forward_pre_hook(block, with_kwargs=True))
            run()
        shape = seen[0] if seen else ()
        if len(seen) != len(self.blocks) or set(seen) != {shape} or len(shape) != 3:
            raise self._refusal("is no plain transformer (its blocks do not all read one row of tokens)")
        self.depth, self.length, self.width = len(seen), shape[1], shape[2]
        self.lead = 1 if 0 < self.patches < self.length else 0
        if grows:
            try:
                with self.carrying(TowerTokens([torch.zeros(1, self.width)])), torch.no_grad():
                    run()
            except Exception as error:  # whatever its parts raise
                if ran_out_of_memory(error):
                    raise
                raise self._refusal("reads a fixed number of tokens") from error

    def _refusal(self, why: str) -> CapabilityError:
        return CapabilityError(
            f"The {self._what} {why}, so no learned tokens can stand in it.", "Name the model that the prompt was learned on."
        )

    @contextmanager
    def carrying(self, tokens: TowerTokens | None) -> Iterator[None]:
        """While open, the tower's blocks read these tokens among their own; gradients flow into them."""
        if tokens is None:
            yield
            return
        import torch

        if len(tokens.layers) > self.depth:
            raise CapabilityError(f"There are learned tokens for {len(tokens.layers)} blocks, and the {self._what} has {self.depth}.")
        count = 0  # of those that stand among the tower's own

        def split(hidden: Tensor) -> tuple[Tensor, Tensor]:
            if tokens.first:
                return hidden[:, : self.lead], hidden[:, self.lead + count :]
            return hidden[:, : hidden.shape[1] - count], hidden[:, hidden.shape[1] :]

        def put(place: int, values: Tensor) -> Callable[..., Any]:
            def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                nonlocal count
                hidden = _first(args, kwargs)
                own = values if values.dim() == 3 else values.expand(len(hidden), -1, -1)
                if place == 0 and tokens.normed and self.norm is not None:
                    own = self.norm(own.to(next(self.norm.parameters()).dtype))
                before, after = split(hidden)
                count = own.shape[1]
                return _instead(args, kwargs, torch.cat([before, own.to(hidden), after], dim=1))

            return hook

        def out(_module: torch.nn.Module, _args: object, output: Any) -> Any:
            nonlocal count
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            own = torch.cat(split(hidden), dim=1)
            count = 0
            return own if isinstance(output, torch.Tensor) else (own, *output[1:])

        with ExitStack() as stack:
            for place, values in enumerate(tokens.layers):
                if values is not None:
                    hook = put(place, values)
                    _hooked(stack, self.blocks[place].register_forward_pre_hook(hook, with_kwargs=True))
            _hooked(stack, self.blocks[-1].register_forward_hook(out))
            yield

    @contextmanager
    def replacing(self, layers: Sequence[Tensor], slots: Sequence[Sequence[int]]) -> Iterator[None]:
        """While open, blocks 1, 2, … read ``layers``, each (M, W) or (B, M, W), at these ``slots`` of each row."""
        if not layers:
            yield
            return

        if len(layers) >= self.depth:
            raise CapabilityError(f"There are learned tokens for {len(layers) + 1} blocks, and the {self._what} has {self.depth}.")

        def put(values: Tensor) -> Callable[..., Any]:
            def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return _instead(args, kwargs, put_at(_first(args, kwargs), values, slots))

            return hook

        with ExitStack() as stack:
            for place, values in enumerate(layers, 1):
                _hooked(stack, self.blocks[place].register_forward_pre_hook(put(values), with_kwargs=True))
            yield


def put_at(hidden: Tensor, values: Tensor, slots: Sequence[Sequence[int]]) -> Tensor:
    """Rows of tokens (B, L, W) with values, (M, W) or (B, M, W), at the M slots of each."""
    import torch

    places = torch.tensor(slots, device=hidden.device)
    rows = torch.arange(len(places), device=hidden.device)[:, None].expand_as(places)
    own = values if values.dim() == 3 else values.expand(len(places), -1, -1)
    return hidden.index_put((rows, places), own.to(hidden))


def strange_weights(image: Tower, text: Tower, whole: torch.nn.Module, weights: Mapping[str, Tensor], drift: float) -> list[str]:
    """Names among ``weights`` whose values no weight of the model has: see :meth:`vlaudit.families.matching.MatchingModel.strange_weights`."""
    import torch

    known: dict[int | tuple[str, int], list[Tensor]] = {}

    def have(owner: torch.nn.Module, key: int | tuple[str, int]) -> list[Tensor]:
        if key not in known:
            known[key] = [value.detach() for value in (*owner.parameters(), *owner.buffers())]
        return known[key]

    def found(value: Tensor, among: list[Tensor]) -> bool:
        if value.layout is not torch.strided or value.is_complex() or value.is_meta or not value.numel():
            return False
        own = value.detach().float()
        size = float(own.where(own.isfinite(), 0).abs().max())
        near = partial(torch.allclose, rtol=drift, atol=1e-5 * size + 1e-6)
        return any(
            (other.shape == own.shape and near(own, other.float().cpu()))
            or (own.dim() == 2 and other.shape == own.T.shape and near(own.T, other.float().cpu()))
            for other in among
        )

    strange = []
    for name, value in weights.items():
        side, _, place = name.partition("_encoder.transformer.resblocks.")
        number = int(place.partition(".")[0]) if place.partition(".")[0].isdecimal() else None
        tower = {"image": image, "text": text}.get(side)
        if tower is None or number is None:
            among = have(whole, 0)
        elif number < tower.depth:
            among = have(tower.blocks[number], (side, number))
        else:
            among = []
        thirds = value.chunk(3) if value.dim() and len(value) % 3 == 0 else ()  # of queries, keys and values, which others hold apart
        if not found(value, among) and not (thirds and all(found(part, among) for part in thirds)):
            strange.append(name)
    return strange


def _blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The largest list of modules of one class."""
    import torch

    found: list[list[torch.nn.Module]] = [[]]
    for part in module.modules():
        children = list(part.children()) if isinstance(part, torch.nn.ModuleList | torch.nn.Sequential) else []
        if len({type(child) for child in children}) == 1:
            found.append(children)
    return max(found, key=lambda children: sum(tensor.numel() for child in children for tensor in child.parameters()))


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def _instead(args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})


def _hooked(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)
