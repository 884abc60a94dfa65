"""Record all launches of a program as one CUDA graph."""

from collections.abc import Sequence
from threading import Lock

import torch
from torch import Tensor

from torchjac._evaluate.direct.replayed import Run

# Libraries set themselves up in the first runs, which may not be recorded.
WARM_UPS = 3


def captured(run: Run, examples: Sequence[Tensor]) -> Run:
    """A program as one CUDA graph, which is launched at once.

    A graph reads and writes the memory that it was recorded with: inputs are copied there, and the
    result from there. Calls take turns on a stream of their own.

    Args:
        run: The program; its launches must not depend on values.
        examples: Inputs on a CUDA device; later ones have the same shapes and dtypes.

    Returns:
        What launches it.

    Source: PyTorch's `torch.cuda.graph`.
    """
    device = examples[0].device
    lock, stream = Lock(), torch.cuda.Stream(device)
    inputs = [x.detach().clone() for x in examples]
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run(inputs)
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        output = run(inputs)

    def launch(leaves: Sequence[Tensor]) -> Tensor:
        caller = torch.cuda.current_stream(device)
        with lock, torch.cuda.stream(stream):
            stream.wait_stream(caller)
            for own, leaf in zip(inputs, leaves, strict=True):
                own.copy_(leaf)
                leaf.record_stream(stream)
            graph.replay()
            result = output.clone()
            result.record_stream(caller)
            caller.wait_stream(stream)
        return result

    return launch
