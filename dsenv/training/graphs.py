"""Training steps as CUDA graphs: a step of many small kernels is launched as one."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

EAGER_STEPS = 16  # steps of a kind before it is captured: a capture costs about as much as ten

Outputs = tuple[Tensor | None, ...]


class StepGraphs:
    """Calls a step, and replays it as a CUDA graph once it has been called often enough.

    The step may only launch kernels: it reads no number and draws none, and the tensors that it changes stay
    where they are. A copy of this object, or one read from a file, has captured nothing.
    """

    def __init__(self) -> None:
        self._called: Counter[Hashable] = Counter()
        self._captured: dict[Hashable, tuple[Any, Sequence[Tensor], Outputs]] = {}
        self._pool: Any = None

    def __reduce__(self) -> tuple[type["StepGraphs"], tuple[()]]:
        return type(self), ()

    def forget(self) -> None:
        """Capture anew: tensors that the step changes are others now."""
        self._called.clear()
        self._captured.clear()
        self._pool = None

    def call(self, kind: Hashable, step: Callable[..., Outputs], inputs: Sequence[Tensor]) -> Outputs:
        """Outputs of the step on these inputs.

        Args:
            kind: what decides, beside shapes, which kernels the step launches.
            step: called with the inputs.
            inputs: tensors on the device.
        """
        key = (kind, *((value.shape, value.dtype) for value in inputs))
        self._called[key] += 1
        if self._called[key] <= EAGER_STEPS:
            return step(*inputs)

        if key not in self._captured:
            self._captured[key] = self._capture(step, inputs)
        graph, places, outputs = self._captured[key]
        for place, value in zip(places, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return tuple(None if value is None else value.clone() for value in outputs)

    def _capture(
        self, step: Callable[..., Outputs], inputs: Sequence[Tensor]
    ) -> tuple[Any, Sequence[Tensor], Outputs]:
        """The graph of a step, where it reads its inputs, and where it leaves its outputs; nothing is run."""
        places = [value.clone(memory_format=torch.contiguous_format) for value in inputs]
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = step(*places)
        return graph, places, outputs
