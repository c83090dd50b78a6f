"""The speed of training: rows per second, seconds per epoch, and what a step waits for, the GPU or the CPU.

    python benchmarks/train_speed.py --faces DIR --voices DIR --per_device_train_batch_size 512
    torchrun --nproc_per_node 2 benchmarks/train_speed.py --faces DIR --voices DIR

Takes the arguments of train_hf.py. After a warm-up, steps are timed as they are in training. Then some begin when the
GPU has nothing left to do: the CPU's time is that until all of a step is launched. A few more run under PyTorch's
profiler. It slows the CPU down but not the GPU's kernels, so the busy share is the kernels' time in a profiled step
over the time of an unprofiled step. NCCL's kernels are counted apart, because they wait for the other processes.
"""

import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from transformers import HfArgumentParser, TrainerCallback, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.arguments import DataArguments, EmoCLIPTrainingArguments, ModelArguments
from training.build import make_trainer

WARMUP_STEPS, TIMED_STEPS, LAUNCHED_STEPS, PROFILED_STEPS = 30, 60, 10, 10


@dataclass
class BenchmarkArguments:
    trace: str | None = field(
        default=None, metadata={"help": "a folder for the profiled steps of each process, to be opened in Perfetto"}
    )


class Stopwatch(TrainerCallback):
    """Times the steps after the warm-up, then what the CPU does of a few more, and profiles the last."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.profiler = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self.on_gpu)
        self.launch_seconds = []

    def now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == WARMUP_STEPS:
            self.start = self.now()
        elif state.global_step == WARMUP_STEPS + TIMED_STEPS:
            self.start, before = self.now(), self.start
            self.seconds_per_step = (self.start - before) / TIMED_STEPS
        elif WARMUP_STEPS + TIMED_STEPS < state.global_step <= WARMUP_STEPS + TIMED_STEPS + LAUNCHED_STEPS:
            self.launch_seconds.append(time.perf_counter() - self.start)
            self.start = self.now()
            if len(self.launch_seconds) == LAUNCHED_STEPS:
                self.profiler.start()
        elif state.global_step == state.max_steps:
            self.now()
            self.profiler.stop()


def main():
    parser = HfArgumentParser((ModelArguments, DataArguments, EmoCLIPTrainingArguments, BenchmarkArguments))
    with tempfile.TemporaryDirectory() as folder:
        model_args, data_args, args, benchmark = parser.parse_args_into_dataclasses(
            ["--output_dir", folder, *sys.argv[1:]]
        )
        args.max_steps = WARMUP_STEPS + TIMED_STEPS + LAUNCHED_STEPS + PROFILED_STEPS
        args.eval_strategy = args.save_strategy = "no"
        args.load_best_model_at_end = False
        set_seed(args.seed)
        trainer, _, _ = make_trainer(model_args, data_args, args)
        stopwatch = Stopwatch(args.device)
        trainer.add_callback(stopwatch)
        trainer.train()
    if benchmark.trace:
        Path(benchmark.trace).mkdir(parents=True, exist_ok=True)
        stopwatch.profiler.export_chrome_trace(f"{benchmark.trace}/process{args.process_index}.json.gz")
    if args.process_index:
        return
    batch = args.per_device_train_batch_size * args.world_size
    step = stopwatch.seconds_per_step
    events = stopwatch.profiler.key_averages()
    device = torch.cuda.get_device_name() if stopwatch.on_gpu else "CPU"
    print(f"{args.world_size} x {device}, {batch} rows a step, {1000 * step:.1f} ms a step")
    print(f"{batch / step:,.0f} rows a second, {len(trainer.train_dataset) / batch * step:.2f} s an epoch")
    if stopwatch.on_gpu:
        kernels = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
        every, waiting = (
            sum(event.self_device_time_total for event in kernels if name in event.key) / PROFILED_STEPS / 1e6
            for name in ("", "nccl")
        )  # seconds a step
        print(f"GPU busy for {1000 * (every - waiting):.1f} ms of a step, {(every - waiting) / step:.0%}", end="")
        print(f", and {1000 * waiting:.1f} ms with the other processes" if waiting else "")
        launch = sorted(stopwatch.launch_seconds)[LAUNCHED_STEPS // 2]
        print(f"the CPU takes {1000 * launch:.1f} ms to launch a step")
        for column in ("self_device_time_total", "self_cpu_time_total"):
            print(events.table(sort_by=column, row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    main()
