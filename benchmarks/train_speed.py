"""The speed of training: rows per second, seconds per epoch, and the share of the time in which the GPU is busy.

    python benchmarks/train_speed.py --faces DIR --voices DIR --per_device_train_batch_size 512
    torchrun --nproc_per_node 2 benchmarks/train_speed.py --faces DIR --voices DIR

Takes the arguments of train_hf.py. After a warm-up, steps are timed as they are in training, and a few more run under
PyTorch's profiler. It slows the CPU down but not the GPU's kernels, so the busy share is the kernels' time in a
profiled step over the time of an unprofiled step.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import HfArgumentParser, TrainerCallback, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
from training.build import make_trainer

WARMUP_STEPS, TIMED_STEPS, PROFILED_STEPS = 30, 60, 10


class Stopwatch(TrainerCallback):
    """Times the steps after the warm-up, then profiles a few more."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CUDA if self.on_gpu else ProfilerActivity.CPU])

    def now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARMUP_STEPS:
            self.start = self.now()
        elif state.global_step == WARMUP_STEPS + TIMED_STEPS:
            self.seconds_per_step = (self.now() - self.start) / TIMED_STEPS
            self.profiler.start()
        elif state.global_step == WARMUP_STEPS + TIMED_STEPS + PROFILED_STEPS:
            self.now()
            self.profiler.stop()


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, EmoCLIPTrainingArguments))
    with tempfile.TemporaryDirectory() as folder:
        model_args, data_args, args = parser.parse_args_into_dataclasses(["--output_dir", folder, *sys.argv[1:]])
        args.max_steps = WARMUP_STEPS + TIMED_STEPS + PROFILED_STEPS
        args.eval_strategy = args.save_strategy = "no"
        args.load_best_model_at_end = False
        set_seed(args.seed)
        trainer, _, _ = make_trainer(model_args, data_args, args)
        stopwatch = Stopwatch(args.device)
        trainer.add_callback(stopwatch)
        trainer.train()
    if args.process_index:
        return
    batch = args.per_device_train_batch_size * args.world_size
    step = stopwatch.seconds_per_step
    events = stopwatch.profiler.key_averages()
    device = torch.cuda.get_device_name() if stopwatch.on_gpu else "CPU"
    print(f"{args.world_size} x {device}, {batch} rows a step, {1000 * step:.1f} ms a step")
    print(f"{batch / step:,.0f} rows a second, {len(trainer.train_dataset) / batch * step:.2f} s an epoch")
    if stopwatch.on_gpu:
        busy = sum(event.self_device_time_total for event in events) / PROFILED_STEPS / 1e6  # seconds a step
        print(f"GPU busy for {1000 * busy:.1f} ms of a step, {busy / step:.0%}")
        print(events.table(sort_by="self_device_time_total", row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    main()
