"""AudioCLIP's audio tower, ESResNe(X)t-fbsp (Guzhov et al., 2021): raw waveforms to the joint space.

    tower = ESResNeXt(EmoCLIPAudioConfig(tower="esresnext_fbsp"), output_dim=1024).eval()
    tower(waveforms)    # (B, 1, T) samples at 44.1 kHz in int16 units to (B, 1024)

A learned time-frequency transform turns the waveform into an image whose channels are three frequency bands; a ResNeXt
with attention reads it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

try:
    from .configuration_emoclip import EmoCLIPAudioConfig
except ImportError:
    if __package__:  # a package is missing, and the error names it
        raise
    from configuration_emoclip import EmoCLIPAudioConfig


def blackman_harris_window(length: int) -> torch.Tensor:
    """The periodic Blackman-Harris window of four terms (Harris, 1978), (length,) float32."""
    terms = (0.35875, 0.48829, 0.14128, 0.01168)
    # transformers builds models on the meta device, but has torch.linspace make its tensors on the CPU even there.
    window = torch.signal.windows.general_cosine(length, a=terms, sym=False, dtype=torch.float64, device="cpu")
    return window.float()


class FrequencyBSplineTransform(nn.Module):
    """A learned time-frequency transform: complex frequency B-spline wavelets (Guzhov et al., 2021, section 3).

    Filter j, over t in -pi..pi, is sqrt(fb) sinc(fb t / m)^m exp(-i fc t) / sqrt(n_fft), with its own m, fb and fc.
    They and the window stay in float32 whatever the rest of the model is cast to: in bfloat16, with its eight bits,
    a centre frequency `fc` of 1,000 bins would be off by up to 4.

    In training, the gradients of m, fb and fc are each divided by (their infinity norm + 1e-8), as in AudioCLIP:
    they differ by orders of magnitude. Each process scales its own gradients, before they are averaged.
    """

    def __init__(self, config: EmoCLIPAudioConfig):
        super().__init__()
        self.n_fft = config.n_fft
        self.hop_length = config.hop_length
        self.num_bands = config.num_bands
        num_filters = config.n_fft // 2 + 1
        self.m = nn.Parameter(torch.ones(num_filters))
        self.fb = nn.Parameter(torch.ones(num_filters))
        self.fc = nn.Parameter(torch.arange(num_filters, dtype=torch.float32))
        self.register_buffer("window", blackman_harris_window(config.win_length).to(self.m.device))
        self._cached: tuple[list[torch.Tensor], torch.Tensor] | None = None

    def _apply(self, fn, recurse: bool = True):
        self._cached = None

        def keep_float32(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_float32, recurse)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_cached": None}

    @property
    def bins_per_band(self) -> int:
        """Bins of a band; the highest filters may be left over."""
        return len(self.m) // self.num_bands

    def sinc_power(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Magnitude and phase of sinc(fb t / m)^m at times t (n,): (filters, n) each."""
        u = self.fb[:, None] * t / (self.m[:, None] + 1e-8)
        sinc = torch.where(u == 0, 1.0, u.sin() / u)
        # The power is the complex one: a negative base has phase pi.
        return sinc.abs().pow(self.m[:, None]), torch.where(sinc < 0, math.pi * self.m[:, None], 0.0)

    def times(self) -> torch.Tensor:
        """Times t of a filter's taps, (n_fft,)."""
        return math.pi * torch.linspace(-1, 1, self.n_fft, device=self.m.device) + 1e-8

    def norm_loss(self) -> torch.Tensor:
        """Mean squared distance of the filters' Euclidean norms from 1, a scalar."""
        with torch.autocast(self.m.device.type, enabled=False):
            magnitude, _ = self.sinc_power(self.times())
            norms = (self.fb / self.n_fft).sqrt() * magnitude.square().sum(-1).sqrt()
            return (norms - 1).square().mean()

    def filters(self) -> torch.Tensor:
        """Real parts, then imaginary parts, of the filters of the bands: (2 * bins, win_length).

        A frame is zero-padded to n_fft on both sides, so only the taps under the window are kept. The order of the
        operations is the original's: phases reach 3,000, where float32 rounds at 1e-4, and most of the difference
        between two implementations is rounding.
        """
        left = (self.n_fft - len(self.window)) // 2
        t = self.times()[left : left + len(self.window)]
        magnitude, phase = self.sinc_power(t)
        angle = self.fc[:, None] * t
        scaled, cos, sin = self.fb.sqrt()[:, None] * magnitude / math.sqrt(self.n_fft), angle.cos(), angle.sin()
        real, imaginary = scaled * phase.cos(), scaled * phase.sin()
        num_bins = self.num_bands * self.bins_per_band
        # (real + i imaginary) (cos - i sin)
        parts = (real * cos + imaginary * sin, imaginary * cos - real * sin)
        return torch.cat([part[:num_bins] for part in parts])

    def current_filters(self) -> torch.Tensor:
        """`filters()`, computed anew only where a gradient is wanted or a parameter has changed.

        The values themselves are compared, some 5,000 numbers, so that no way of changing them goes unnoticed.
        """
        sources = (self.m, self.fb, self.fc, self.window)
        wants_gradient = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if wants_gradient or torch.compiler.is_compiling():
            return self.filters()
        on_device = self._cached is not None and self._cached[1].device == self.m.device
        if not on_device or not all(map(torch.equal, self._cached[0], sources)):
            self._cached = [source.detach().clone() for source in sources], self.filters()
        return self._cached[1]

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, 1, T) samples in int16 units to decibels (B, bands, bins per band, frames), float32."""
        if self.training and torch.is_grad_enabled():
            for parameter in (self.m, self.fb, self.fc):
                # A hook does not travel with a copy or a replaced parameter, so its presence is checked each time.
                if parameter.requires_grad and not parameter._backward_hooks:
                    parameter.register_hook(lambda grad: grad / (grad.abs().amax() + 1e-8))
        with torch.autocast(waveforms.device.type, enabled=False):
            x = 2 * (waveforms.float() + 2**15) / (2**16 - 1) - 1
            win_length = len(self.window)
            frames = 1 + max(0, math.ceil((x.shape[-1] - win_length) / self.hop_length))
            missing = win_length + (frames - 1) * self.hop_length - x.shape[-1]
            x = F.pad(x, (missing // 2, missing - missing // 2))
            x = x[:, 0].unfold(-1, win_length, self.hop_length) * self.window  # (B, frames, win_length)
            spectrum = self.current_filters() @ x.transpose(1, 2)  # (B, 2 * bins, frames)
            real, imaginary = spectrum.chunk(2, dim=1)
            power = real.square() + imaginary.square()
            decibels = 10 * torch.where(power > 0, power, 1e-18).log10()
        return decibels.unflatten(1, (self.num_bands, self.bins_per_band))


#: A convolution's weight and bias with the batch norm behind it folded in, by the convolution.
FoldedConvolutions = dict[nn.Conv2d, tuple[torch.Tensor, torch.Tensor]]


def conv_norm(
    x: torch.Tensor,
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d,
    folded: FoldedConvolutions | None,
    relu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolution, batch norm, the sum with `residual` where it is given, and ReLU if `relu`.

    With `folded`, all of it is one fused call of oneDNN, the one that torch.compile makes too. Folding alone saves
    little: it is the separate ReLU and sum that cost time, each of which reads and writes the whole map.
    """
    if folded is None:
        x = norm(conv(x))
        x = x if residual is None else x + residual
        return F.relu(x, inplace=True) if relu else x
    weight, bias = folded[conv]
    geometry = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
    fused = torch.ops.mkldnn._convolution_pointwise
    if residual is None:
        return fused(x, weight, bias, *geometry, "relu" if relu else "none", [], "")
    if residual.shape[-2:].numel() == 1:  # a 1x1 map has no memory format of its own, which the fused sum needs
        x = fused(x, weight, bias, *geometry, "none", [], "") + residual
        return F.relu(x, inplace=True) if relu else x
    return fused.binary(x, residual, weight, bias, *geometry, "add", 1.0, "relu" if relu else None, [], "")


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight, channels last, and bias of the convolution that does what `conv` and `norm` in evaluation mode do."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return weight.detach().contiguous(memory_format=torch.channels_last), bias.detach()


class ResNeXtBlock(nn.Module):
    """The bottleneck of ResNeXt-50 32x4d (Xie et al., 2017): its grouped 3x3 is 2 `channels` wide, and strides."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int):
        super().__init__()
        width, out_channels = 2 * channels, channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor, folded: FoldedConvolutions | None) -> torch.Tensor:
        out = conv_norm(x, self.conv1, self.bn1, folded, relu=True)
        out = conv_norm(out, self.conv2, self.bn2, folded, relu=True)
        if self.downsample is not None:
            x = conv_norm(x, *self.downsample, folded)
        return conv_norm(out, self.conv3, self.bn3, folded, relu=True, residual=x)


class AudioAttention(nn.Module):
    """Attention: a weight for each channel and position of a stage's output, computed from the stage's input."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int]):
        super().__init__()
        self.conv_depth = nn.Conv2d(in_channels, in_channels, kernel_size, padding="same", groups=in_channels)
        self.conv_point = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor, size: tuple[int, int], folded: FoldedConvolutions | None) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, *size), in 0..1."""
        x = self.conv_depth(F.adaptive_max_pool2d(x, size))
        return conv_norm(x, self.conv_point, self.bn, folded).sigmoid()


class ESResNeXt(nn.Module):
    """AudioCLIP's audio tower: the transform, a ResNeXt with attention around each stage, a linear projection."""

    #: of the attentions around the four stages and around the pooling; height is frequency, width is time
    attention_kernels = ((3, 1), (1, 5), (3, 1), (1, 5), (3, 5))

    def __init__(self, config: EmoCLIPAudioConfig, output_dim: int):
        super().__init__()
        self.fbsp = FrequencyBSplineTransform(config)
        self.conv1 = nn.Conv2d(config.num_bands, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = [config.width, *(config.width * 4 * 2**stage for stage in range(4))]
        self.stages = nn.ModuleList()
        for stage, blocks in enumerate(config.layers):
            self.stages.append(
                nn.ModuleList(
                    [
                        ResNeXtBlock(
                            channels[stage] if block == 0 else channels[stage + 1],
                            config.width * 2**stage,
                            2 if stage > 0 and block == 0 else 1,
                            config.groups,
                        )
                        for block in range(blocks)
                    ]
                )
            )
        self.attentions = nn.ModuleList(
            AudioAttention(channels[i], channels[min(i + 1, 4)], kernel_size)
            for i, kernel_size in enumerate(self.attention_kernels)
        )
        self.fc = nn.Linear(config.hidden_size, output_dim)
        self._folded: tuple[list[tuple], FoldedConvolutions] | None = None

    def train(self, mode: bool = True):
        self._folded = None
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True):
        self._folded = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_folded": None}

    def folded_convolutions(self) -> FoldedConvolutions | None:
        """Batch norms folded into convolutions, where that is faster and exact: float32 inference on a CPU.

        They are folded anew when a tensor was replaced or written in place, which its version counts. A write through
        `.data` is not counted: it is noticed after the next `train()`, `eval()` or `to()`.
        """
        weight = self.conv1.weight
        tensors = [*self.parameters(), *self.buffers()]
        if (
            self.training
            or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
            or weight.device.type != "cpu"
            or weight.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or any(tensor.is_inference() for tensor in tensors)  # these have no version
            or not hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        ):
            return None
        versions = [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._folded is None or self._folded[0] != versions:
            pairs = [(self.conv1, self.bn1), *((a.conv_point, a.bn) for a in self.attentions)]
            for block in (block for stage in self.stages for block in stage):
                pairs += [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)]
                if block.downsample is not None:
                    pairs.append(tuple(block.downsample))
            self._folded = versions, {conv: fold(conv, norm) for conv, norm in pairs}
        return self._folded[1]

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(B, 1, T) samples at 44.1 kHz in int16 units to (B, D)."""
        if waveforms.ndim != 3 or waveforms.shape[1] != 1 or waveforms.shape[2] == 0:
            raise ValueError(f"Waveforms must be `input_values` (B, 1, T), T above 0, got {tuple(waveforms.shape)}.")
        x = self.fbsp(waveforms).to(self.conv1.weight.dtype, memory_format=torch.channels_last)
        folded = self.folded_convolutions()
        x = self.maxpool(conv_norm(x, self.conv1, self.bn1, folded, relu=True))
        for stage, attention in zip(self.stages, self.attentions):
            out = x
            for block in stage:
                out = block(out, folded)
            x = out * attention(x, out.shape[-2:], folded)
        x = F.adaptive_avg_pool2d(x, 1) * self.attentions[-1](x, (1, 1), folded)  # (B, channels, 1, 1)
        return self.fc(x.flatten(1))
