"""Cuts every pass of a model to what fits into memory, so that no probe and no search needs to know how much that is.

What one more example takes is measured: once for each kind of pass, by passing one example and then two. How many fit follows from
the room there is, asked anew at each pass that is not small. Where memory runs out all the same, the part is halved and tried
again, within the pass, and the smaller size is remembered until many passes in a row have held.

A batch that fits passes as it is. One that does not passes in parts; with gradients, the parts before the last leave no graph
behind and pass again, one after the other, when their gradients are asked for: checkpointing (arXiv:1604.06174) across
the batch instead of the depth.
"""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlaudit.cage import memory
from vlaudit.device import room
from vlaudit.errors import OutOfMemory, ran_out_of_memory

SHARE = 0.7  # of the room that one pass may take; the rest is for what its caller makes of it
SMALL = 64_000_000  # bytes of a pass that is made without a look at the room there is
HELD = 64  # passes in a row after which a part that was halved may double
UNMEASURED = 2  # examples that are passed without being measured first

Run = Callable[..., Any]
"""``run(rows, *inputs)``: one pass over the examples of a slice, with their rows of the inputs. Gives a tensor or several with a
row for each example, or a list with an entry for each."""
_Key = tuple[str, bool, int]
T = TypeVar("T")


@dataclass(frozen=True)
class _Cost:
    """Bytes that a pass takes at its peak: ``base``, and for each example ``each`` a unit of its weight."""

    base: float
    each: float


class Cut:
    """The passes of one model. ``most``: examples a pass at most, whatever would fit; ``measuring``: whether what passes now is
    only measured; ``measured``: how many kinds of passes were; ``products``: how exact those of float32 are on a GPU, in the words of
    ``torch.set_float32_matmul_precision``."""

    def __init__(self, device: torch.device, spec: str) -> None:
        self._device, self._spec = device, spec
        self.most: int | None = None
        self.products: Literal["highest", "high"] = "highest"
        self.measuring, self.measured = False, 0
        self._costs: dict[_Key, _Cost] = {}
        self._halved: dict[_Key, list[int]] = {}  # the size that held last, and how often in a row

    def __call__(self, kind: str, run: Run, *inputs: Tensor, count: int | None = None, weight: int | None = None,
                 trial: Run | None = None, tried: int | None = None, following: int = 0,
                 thrift: Callable[[], bool] | None = None) -> Any:  # fmt: skip
        """What ``run`` gives for all ``count`` examples (default: the rows of the first input).

        Gradients flow into ``inputs``; into tensors that ``run`` only closes over they flow where no input requires any. The
        parts' gradients are computed when ``backward`` is called, so ``run`` opens for itself what it needs open.
        kind: names passes whose cost is alike but for ``weight``, a number to which it is about proportional (default: the numbers
        that the first input has of each example). trial: what is measured in place of ``run``, and tried: of what weight that is.
        following: examples whose graphs are made after this one, before any is used; where not all of them fit, this pass leaves none.
        thrift: called once where a single example does not seem to fit; says whether it made passes cheaper. Raises OutOfMemory
        where one does not.
        """
        if self._device.type == "cuda":  # one setting for the whole process; gradients follow while it stands
            torch.set_float32_matmul_precision(self.products)
        count = len(inputs[0]) if count is None else count
        weight = weight or (max(1, inputs[0].numel() // max(1, count)) if inputs else 1)
        one = _Pass(self, kind, run, inputs, count, weight, trial or run, tried or weight, following, thrift)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
            outputs = _Function.apply(one, *inputs)
            return outputs if one.several else outputs[0]
        return one.plain()

    # --- how many at once? --------------------------------------------------------------------------------------------

    def size(self, one: _Pass, count: int, grad: bool) -> int:
        """How many of so many examples to pass at once."""
        key = (one.kind, grad, one.weight.bit_length())
        limit = min(count, self.most or count, self._halved.get(key, [count])[0])
        if limit <= 1 or (one.count <= UNMEASURED and key not in self._costs):
            return max(1, limit)
        while True:
            if key not in self._costs:
                self._costs[key] = self._measured(one, grad)
                limit = min(limit, self._halved.get(key, [limit])[0])
            cost = self._costs[key]
            each = cost.each * one.weight
            if each == 0 or cost.base + limit * each <= SMALL:
                return limit
            fitting = int((SHARE * room(self._device) - cost.base) / each)
            if fitting < limit and self._device.type != "cuda":
                memory.trim()
                fitting = int((SHARE * room(self._device) - cost.base) / each)
            if fitting >= 1 or one.thrift is None or not one.thrift():
                return max(1, min(limit, fitting))
            one.thrift = None
            self._costs = {known: cost for known, cost in self._costs.items() if known[0] != one.kind}

    def held(self, one: _Pass, grad: bool) -> None:
        """A pass got through."""
        state = self._halved.get((one.kind, grad, one.weight.bit_length()))
        if state:
            state[1] += 1
            if state[1] >= HELD:
                state[:] = [2 * state[0], 0]

    def ran_out(self, one: _Pass, size: int, grad: bool) -> None:
        """Memory ran out with so many examples. Raises OutOfMemory where it was one."""
        if size <= 1:
            gradients = " and their gradients" * grad
            raise OutOfMemory(f"'{self._spec}' ran out of memory with a single example ({one.kind}{gradients}).")
        self._halved[one.kind, grad, one.weight.bit_length()] = [size // 2, 0]
        self._tidy()

    def _tidy(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            memory.trim()

    def _measured(self, one: _Pass, grad: bool) -> _Cost:
        self.measuring, self.measured = True, self.measured + 1
        try:
            first, second = (self._peak(partial(one.tried, slice(size), grad)) for size in (1, 2))
        except Exception as error:  # noqa: BLE001 (whatever it is, the pass itself will say it)
            if not ran_out_of_memory(error):
                return _Cost(0, 0)
        else:
            each = max(second - first, 0)
            return _Cost(max(first - each, 0), each / one.trial_weight)
        finally:
            self.measuring = False
        self._halved[one.kind, grad, one.weight.bit_length()] = [1, 0]
        self._tidy()
        return _Cost(0, 0)

    def _peak(self, run: Callable[[], object]) -> int:
        """The most bytes of tensors that are alive at once during a call, besides those that were before."""
        if self._device.type == "cuda":
            before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            run()
            return torch.cuda.max_memory_allocated(self._device) - before
        with Living() as living:
            run()
        return living.peak


class _Pass:
    """One call: what is passed, and how it is put together again. ``several``: whether ``run`` gives several tensors."""

    def __init__(self, cut: Cut, kind: str, run: Run, inputs: Sequence[Tensor], count: int, weight: int, trial: Run,
                 tried: int, following: int, thrift: Callable[[], bool] | None) -> None:  # fmt: skip
        self._cut, self.kind, self._run, self._trial, self.trial_weight = cut, kind, run, trial, tried
        self._inputs, self.count, self.weight, self.thrift, self._whole = inputs, count, weight, thrift, count + following
        self.several = False

    def plain(self) -> Any:
        """What ``run`` gives, in as many parts as it takes."""
        return _joined(list(self._parts(0, self.count)))

    def forward(self) -> tuple[tuple[Tensor, ...], _Graph | None]:
        """Outputs without a graph, and the graph of the last part, which is the whole where that fits; of no part where more is to
        come than fits."""
        parts: list[Any] = []
        start, graph = 0, None
        if self._whole > self.count and self._cut.size(self, self._whole, True) < self._whole:
            parts += self._parts(0, self.count)
            start = self.count
        while start < self.count or not parts:
            kept = slice(max(start, self.count - self._even(self.count, True)), self.count)
            parts += self._parts(start, kept.start)
            start = kept.start
            if graph := self._attempt(partial(self._graph, kept), kept, True):
                outputs = tuple(output.detach() for output in graph.outputs)
                parts.append(outputs if self.several else outputs[0])
                break
        joined = _joined(parts)
        return joined if self.several else (joined,), graph

    def backward(self, graph: _Graph | None, gradients: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of the wanted inputs, from those of the outputs."""
        found: list[Tensor | None] = [None] * len(self._inputs)
        stop = self.count
        while stop > 0:
            rows = graph.rows if graph else slice(stop - self._even(stop, True), stop)
            held, graph = [graph or None], None  # so that a graph that did not fit is gone when it is tried again

            def part(rows: slice = rows, held: list[_Graph | None] = held) -> list[Tensor | None]:
                made = held.pop() or self._graph(rows)
                return made.gradients([gradient[rows] for gradient in gradients])

            if (slopes := self._attempt(part, rows, True)) is None:
                continue
            for place, slope in enumerate(slopes):
                if slope is None or not wanted[place]:
                    continue
                if rows == slice(0, self.count):
                    found[place] = slope
                    continue
                if found[place] is None:
                    found[place] = slope.new_zeros(self._inputs[place].shape)
                found[place][rows] = slope  # type: ignore[index]
            stop = rows.start
        return found

    def tried(self, rows: slice, grad: bool) -> None:
        """The pass as it is measured."""
        if grad:
            graph = self._graph(rows)
            graph.gradients([torch.ones_like(output) for output in graph.outputs])
        else:
            with torch.no_grad():
                self._trial(rows, *self._rows(rows))

    def _parts(self, start: int, stop: int) -> Iterator[Any]:
        """Results of the rows between, one part after the other, in the present grad mode; of no examples at all, one of none."""
        while start < stop or self.count == 0:
            rows = slice(start, start + self._even(stop - start, False))
            done = self._attempt(partial(self._once, rows), rows, False)
            if done:
                start = rows.stop
                yield done[0]
            if self.count == 0:
                return

    def _once(self, rows: slice) -> list[Any]:
        outputs = self._run(rows, *self._rows(rows))
        self.several = not isinstance(outputs, Tensor)
        return [outputs]

    def _graph(self, rows: slice) -> _Graph:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in self._rows(rows)]
            outputs = self._run(rows, *leaves)
        self.several = not isinstance(outputs, Tensor)
        return _Graph(rows, leaves, outputs if self.several else (outputs,))

    def _attempt(self, call: Callable[[], T], rows: slice, grad: bool) -> T | None:
        """What a part gives; None where memory ran out, after which parts are smaller."""
        try:
            result = call()
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
        else:
            self._cut.held(self, grad)
            return result
        self._cut.ran_out(self, rows.stop - rows.start, grad)
        return None

    def _even(self, left: int, grad: bool) -> int:
        """The size of the next part: of those that are left, as many as fit, in parts of nearly one size."""
        return math.ceil(left / math.ceil(left / self._cut.size(self, left, grad))) if left else 0

    def _rows(self, rows: slice) -> Sequence[Tensor]:
        whole = rows == slice(0, self.count)
        return self._inputs if whole else [tensor[rows] for tensor in self._inputs]


@dataclass
class _Graph:
    """A part that has passed forward: leaves in the place of its inputs, and what was made of them."""

    rows: slice
    leaves: list[Tensor]
    outputs: Sequence[Tensor]

    def gradients(self, gradients: Sequence[Tensor]) -> list[Tensor | None]:
        """Of the leaves, None where none is needed or the outputs do not depend on it. The graph is gone afterwards."""
        pairs = [pair for pair in zip(self.outputs, gradients, strict=True) if pair[0].requires_grad]
        needed = [leaf for leaf in self.leaves if leaf.requires_grad]
        if not pairs or not needed:
            return [None] * len(self.leaves)
        outputs, slopes = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, needed, slopes, allow_unused=True))
        return [next(found) if leaf.requires_grad else None for leaf in self.leaves]


class _Function(torch.autograd.Function):
    """A pass with gradients, whole or in parts."""

    @staticmethod
    def forward(ctx: Any, one: _Pass, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.one = one
        ctx.save_for_backward(*inputs)
        outputs, ctx.graph = one.forward()
        ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises where one was changed in place since
        graph, ctx.graph = ctx.graph, None
        return None, *ctx.one.backward(graph, gradients, ctx.needs_input_grad[1:])


def _joined(parts: list[Any]) -> Any:
    """What the parts gave, one after the other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, list):
        return [entry for part in parts for entry in part]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


class Living(TorchDispatchMode):
    """While open, follows the bytes of the tensors that operations make, for as long as these live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := _storage(leaf))._cdata not in given | self._known:
                self._known.add(storage._cdata)
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()
