"""How fast the towers of the preset `audioclip` are, in samples per second, and how much of it the transform takes.

    python benchmarks/audioclip_speed.py                     # image, audio (5 s) and text, batches of 1 and 32
    python benchmarks/audioclip_speed.py --tower audio --batch_sizes 1 8

Weights are random: speed does not depend on them. Where there is a GPU, it is timed in bfloat16 too. The baseline is
a plain transcription of the published computation: every module by itself, the transform's weights made anew at each
call, its frames copied out and padded to 2,048 samples.

Measured on 2 idle CPU cores, float32, torch 2.11, 5 s of sound:

    python benchmarks/audioclip_speed.py --tower audio --batch_sizes 1 8 --repeats 9

    tower  batch  samples/s       ms  transform  baseline ms  speed-up
    audio      1        6.6    152.0       11 %        316.1     2.08x
    audio      8        6.7   1185.9       11 %       2458.4     2.07x

    python benchmarks/audioclip_speed.py --batch_sizes 1 8 32 --repeats 3

    tower  batch  samples/s       ms  transform  baseline ms  speed-up
    image      1       17.4     57.6
    image      8       18.0    444.9
    image     32        8.6   3741.7
    audio      1        8.3    121.0       13 %        255.3     2.11x
    audio      8        6.7   1199.3       11 %       2124.9     1.77x
    audio     32        5.8   5546.4       11 %      14487.5     2.61x
    text       1       17.3     57.7
    text       8       26.6    300.4
    text      32       27.6   1161.4

Runs differ: batches of 8 came to between 1.77 and 2.09 times the baseline's speed. On cores that other programs use,
threads that wait by spinning take them from each other and everything is 3 to 7 times slower; there,
OMP_WAIT_POLICY=passive helps. GPUs were not measured. What was tried on the audio tower, batch 1, one thread, on busy
cores (milliseconds; runs differ by a tenth and more):

- The transform's weights kept between calls: 40 to 50 saved a call. One matrix product with the 1,654 taps under the
  window, real and imaginary parts in one: 30. Channels last or not makes no difference to it.
- Windowing the frames instead of the filters: as fast, and nearer to the original's rounding.
- The ResNeXt alone: 356. In-place ReLU and sums: 356; channels last: 350; both: 334. Batch norms folded besides: 283
  where 335 stood, transform included in the latter, so next to nothing.
- Folded, with the ReLU and the sum as part of the convolution (oneDNN's fused call, the one torch.compile makes): 187
  in channels last, 316 without. This is what inference in float32 on a CPU does.
- Weights in float64: no nearer to the original, which rounds its phases in float32 (relative error 1e-4 for 3e-6).
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from configuration_emoclip import EmoCLIPConfig  # noqa: E402
from esresnext_emoclip import ESResNeXt, FrequencyBSplineTransform  # noqa: E402
from modeling_emoclip import EmoCLIPModel  # noqa: E402

SAMPLING_RATE = 44_100  # Hz


def plain_transform(fbsp: FrequencyBSplineTransform, waveforms: torch.Tensor) -> torch.Tensor:
    """(B, 1, T) int16 units to (B, 3, 341, frames) decibels, in the paper's own steps."""
    x = 2 * (waveforms.float() + 32768) / 65535 - 1
    win_length, hop_length, n_fft = len(fbsp.window), fbsp.hop_length, fbsp.n_fft
    frames = 1 + max(0, math.ceil((x.shape[-1] - win_length) / hop_length))
    missing = win_length + (frames - 1) * hop_length - x.shape[-1]
    x = F.pad(x, (missing // 2, missing - missing // 2))[:, 0]
    x = torch.stack([x[:, i * hop_length : i * hop_length + win_length] for i in range(frames)], dim=1)
    side = (n_fft - win_length) // 2
    x = F.pad(x * fbsp.window, (side, n_fft - win_length - side))  # (B, frames, n_fft)
    m, fb, fc = fbsp.m[:, None], fbsp.fb[:, None], fbsp.fc[:, None]
    t = math.pi * torch.linspace(-1, 1, n_fft, device=x.device) + 1e-8
    u = fb * t / (m + 1e-8)
    sinc = torch.where(u == 0, 1.0, u.sin() / u)
    power = torch.complex(sinc, torch.zeros_like(sinc)) ** m
    kernel = torch.complex((fc * t).cos(), -(fc * t).sin())
    weights = fb.sqrt() * power * kernel / math.sqrt(n_fft)  # (filters, n_fft)
    spectrum = x.to(weights.dtype) @ weights.T  # (B, frames, filters)
    spectrum = spectrum.transpose(1, 2)[:, : fbsp.num_bands * fbsp.bins_per_band]
    power = spectrum.real.square() + spectrum.imag.square()
    decibels = 10 * torch.where(power > 0, power, 1e-18).log10()
    return decibels.unflatten(1, (fbsp.num_bands, fbsp.bins_per_band))


def plain_audio_tower(tower: ESResNeXt, waveforms: torch.Tensor) -> torch.Tensor:
    """(B, 1, T) to (B, D): module by module."""

    def attend(attention, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        x = attention.conv_depth(F.adaptive_max_pool2d(x, size))
        return torch.sigmoid(attention.bn(attention.conv_point(x)))

    x = plain_transform(tower.fbsp, waveforms).to(tower.conv1.weight.dtype)
    x = F.max_pool2d(F.relu(tower.bn1(tower.conv1(x))), 3, stride=2, padding=1)
    for stage, attention in zip(tower.stages, tower.attentions):
        out = x
        for block in stage:
            shortcut = out if block.downsample is None else block.downsample(out)
            out = F.relu(block.bn1(block.conv1(out)))
            out = F.relu(block.bn2(block.conv2(out)))
            out = F.relu(block.bn3(block.conv3(out)) + shortcut)
        x = out * attend(attention, x, out.shape[-2:])
    x = F.adaptive_avg_pool2d(x, 1) * attend(tower.attentions[-1], x, (1, 1))
    return tower.fc(x.flatten(1))


def seconds(calls: list[Callable[[], torch.Tensor]], repeats: int, device: str) -> list[float]:
    """The median time of each call, after one that warms up; in turn, so that all meet the same load."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats + 1):
        for call, taken in zip(calls, times):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in times]


@torch.inference_mode()
def time_towers(
    model: EmoCLIPModel, towers: list[str], batch_sizes: list[int], clip_seconds: float, repeats: int
) -> None:
    """Prints a line a tower and batch size: samples per second, milliseconds, share of the transform, baseline."""
    device, dtype = model.device.type, model.dtype
    print(f"\n{device}, {dtype}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    print("tower  batch  samples/s       ms  transform  baseline ms  speed-up")
    side, text = model.config.vision_config.image_size, model.config.text_config
    for tower in towers:
        for batch in batch_sizes:
            if tower == "image":
                pixels = torch.randn(batch, 3, side, side, device=device, dtype=dtype)
                (taken,) = seconds([lambda: model.get_image_features(pixels)], repeats, device)
            elif tower == "text":
                shape = (batch, text.max_position_embeddings)
                ids = torch.randint(text.bos_token_id, shape, device=device)
                ids[:, -1] = text.eos_token_id
                (taken,) = seconds([lambda: model.get_text_features(ids)], repeats, device)
            else:
                waveforms = 3000 * torch.randn(batch, 1, round(clip_seconds * SAMPLING_RATE), device=device)
                audio = model.audio_model
                calls = [
                    lambda: audio(waveforms),
                    lambda: audio.fbsp(waveforms),
                    lambda: plain_audio_tower(audio, waveforms),
                ]
                taken, transform, plain = seconds(calls, repeats, device)
            line = f"{tower:<6} {batch:5} {batch / taken:10.1f} {1e3 * taken:8.1f}"
            if tower == "audio":
                line += f" {100 * transform / taken:8.0f} % {1e3 * plain:12.1f} {plain / taken:8.2f}x"
            print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", nargs="+", default=["image", "audio", "text"], choices=["image", "audio", "text"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a recording")
    parser.add_argument("--repeats", type=int, default=5, help="calls, of which the median counts")
    parser.add_argument("--threads", type=int, help="of the CPU; by default as many as torch takes")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = EmoCLIPModel(EmoCLIPConfig.from_preset("audioclip")).eval()
    time_towers(model, args.tower, args.batch_sizes, args.seconds, args.repeats)
    if torch.cuda.is_available():
        model = model.to("cuda", torch.bfloat16)
        time_towers(model, args.tower, args.batch_sizes, args.seconds, args.repeats)


if __name__ == "__main__":
    main()
