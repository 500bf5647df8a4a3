"""Forwards of one layout on a GPU as CUDA graphs: one launch where Python launches a thousand.

A 7B model's pass for a few tokens is bound by launching kernels, some six times over
(benchmarks/engine/README.md).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Function = Callable[..., Tensor]
"""Of tensors on the GPU; everything else that it does is the same for the same layout."""
Captured = Callable[[Sequence[Tensor]], Tensor]
"""The function for other numbers in its tensors; what it returns lasts until the next call."""

_AFTER = 2
"""Times in a row that a layout must come first: to capture it takes as long as two passes."""
_MOST = 64


class Graphs:
    """Runs functions; those whose layout stays are captured, and replayed from then on.

    A function that cannot be captured (one that waits for the device, say) runs as it is.

    Args:
        capture: makes the graph.
    """

    def __init__(self, capture: Callable[[Function, Sequence[Tensor]], Captured]) -> None:
        self._capture = capture
        self._captured: OrderedDict[Hashable, Captured] = OrderedDict()
        self._last: tuple[Hashable, int] = (None, 0)
        self._works = True

    def run(self, layout: Hashable, function: Function, inputs: Sequence[Tensor]) -> Tensor:
        """function(*inputs).

        Args:
            layout: what a graph depends on beside the numbers in the inputs: their shapes, and
                all that the function looks at.
            function: what to run.
            inputs: on the GPU.
        """
        if layout not in self._captured and self._comes_again(layout):
            self._add(layout, function, inputs)
        if (captured := self._captured.get(layout)) is None:
            return function(*inputs)
        self._captured.move_to_end(layout)
        return captured(inputs)

    def _comes_again(self, layout: Hashable) -> bool:
        last, times = self._last
        self._last = layout, times + 1 if layout == last else 1
        return self._works and self._last[1] > _AFTER

    def _add(self, layout: Hashable, function: Function, inputs: Sequence[Tensor]) -> None:
        try:
            self._captured[layout] = self._capture(function, inputs)
        except RuntimeError as error:
            self._works = False
            logger.info("no CUDA graphs for this model: %s", error)
        while len(self._captured) > _MOST:
            self._captured.popitem(last=False)


class CudaCapture:
    """Captures a function as a CUDA graph; all graphs share their memory.

    Args:
        device: where everything of the function is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Captured:
        """Warm up, so that libraries take their workspace before, and capture."""
        kept = [tensor.clone() for tensor in inputs]
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function(*kept)
        current.wait_stream(self._stream)
        # thread_local: another thread may use the GPU meanwhile
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            output = function(*kept)

        def replay(new: Sequence[Tensor]) -> Tensor:
            for tensor, values in zip(kept, new, strict=True):
                tensor.copy_(values)
            graph.replay()
            return output

        return replay


def graphs_of(model: torch.nn.Module) -> Graphs | None:
    """For a model; None where there are none: on a CPU, or on several GPUs."""
    devices = {parameter.device for parameter in model.parameters()}
    device = devices.pop()
    return None if devices or device.type != "cuda" else Graphs(CudaCapture(device))
