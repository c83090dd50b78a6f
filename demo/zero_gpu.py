"""On Hugging Face's ZeroGPU, which starts no Space without a function that may be lent a GPU.

That function is "Why this answer?", which takes many passes through the network and back. Everything else stays on the
CPU, where an answer takes less time than asking for a GPU, and costs visitors nothing of their few minutes a day.
"""

from collections.abc import Callable

import torch

from demo.checkpoint import Checkpoint
from demo.why import Answered

GPU_SECONDS = 10  # for which one is asked


def lend(
    gpu: Callable[..., Callable], why: Callable[[Answered | None], str], checkpoint: Checkpoint
) -> Callable[[Answered | None], str]:
    """`why`, on a GPU where one is to be had, and as it is where the visitor has used up his minutes.

    Args:
        gpu: `spaces.GPU`. On ZeroGPU it runs a function in a process forked from this one; elsewhere it does nothing.
        why: runs the checkpoint's model.
    """

    @gpu(duration=GPU_SECONDS)
    def why_on_gpu(answered: Answered | None) -> str:
        if torch.cuda.is_available():
            torch.set_num_threads(1)  # OpenMP's threads are not there after a fork
            checkpoint.pipe.model.to("cuda")  # in the forked process alone
        return why(answered)

    def why_anywhere(answered: Answered | None) -> str:
        try:
            return why_on_gpu(answered)
        except Exception as error:  # what the package raises has no common class
            print(f"No GPU was lent: {type(error).__name__}", flush=True)
            return why(answered)

    return why_anywhere
