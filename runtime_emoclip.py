"""The image and the audio tower, by ONNX Runtime where it is faster and by PyTorch everywhere else.

    towers = Towers(model, runtime="auto")
    with torch.no_grad():
        features = towers("face", pixel_values)    # (B, D), as get_image_features(pixel_values).pooler_output

On a CPU, ONNX Runtime needs about half of PyTorch's time for a tower; docs/speed.md has the figures. Its graph is
written when the first rows come, in 0.2 s, and lives in memory: there is no file that could be out of date. What it
gives differs from PyTorch's by rounding only. Heads, calibration and fusion are PyTorch's: they take microseconds.

Shapes in the comments: B rows, D the joint space, H x W pixels.
"""

import threading
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel

try:
    import onnxruntime
except ImportError:
    onnxruntime = None
try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError:
    onnx = None

Runtime = Literal["auto", "torch", "onnx"]
Head = Literal["face", "voice"]
MODALITIES: dict[Head, str] = {"face": "image", "voice": "audio"}
OPSET, IR_VERSION = 18, 10  # of ONNX: what onnxruntime 1.18 reads, and all after it


class Towers:
    """The features of faces and of voices, by one runtime or the other.

    Gradients, training, GPUs and weights in half precision are PyTorch's, whatever the runtime. Weights that are
    written to, as an optimizer and `load_state_dict` do, are noticed; other tensors in their place are not. Threads
    may share one object; copies and pickles are made anew.

    Args:
        model: `EmoCLIPForEmotionClassification`.
        runtime: "auto" is ONNX Runtime where it can run the towers, and PyTorch where it cannot.
    Raises:
        ValueError: there is no such runtime, or it is "onnx", and ONNX Runtime cannot run a tower: the sentence says
            why.
        ImportError: it is "onnx", and a package is missing.
    """

    def __init__(self, model: PreTrainedModel, runtime: Runtime = "auto"):
        if runtime not in get_args(Runtime):
            raise ValueError(f"A runtime is one of {', '.join(get_args(Runtime))}, not {runtime!r}.")
        self._model, self._runtime = model, runtime
        self._threads = torch.get_num_threads()  # of the thread that makes the object: others may have set their own
        self._graphs: dict[Head, _Graph] = {}
        self._lock = threading.Lock()
        if runtime == "onnx":
            if None in (onnx, onnxruntime):
                raise ImportError("The runtime onnx needs onnx and onnxruntime: pip install onnx onnxruntime")
            for head in get_args(Head):
                if obstacle := self._obstacle(head):
                    raise ValueError(f"The runtime onnx cannot be had: {obstacle}. Leave runtime at auto.")

    def __reduce__(self) -> tuple:
        return Towers, (self._model, self._runtime)

    def __call__(self, head: Head, rows: torch.Tensor) -> torch.Tensor:
        """(B, D) features, not normalised, of rows as the model takes them, on its device: `pixel_values` for a
        face, `input_features` or `input_values` for a voice."""
        missing = None in (onnx, onnxruntime)
        if self._runtime == "torch" or missing or torch.is_grad_enabled() or self._obstacle(head):
            return self._torch(head, rows)
        return self._graph(head, rows)(rows)

    def _torch(self, head: Head, rows: torch.Tensor) -> torch.Tensor:
        backbone = self._model.emoclip
        if head == "face":
            return backbone.get_image_features(rows).pooler_output
        name = "input_features" if backbone.audio_model is None else "input_values"
        return backbone.get_audio_features(**{name: rows}).pooler_output

    def _obstacle(self, head: Head) -> str | None:
        """Why a head's tower, as it is now, is left to PyTorch; None where it is not."""
        config = self._model.config
        if config.vision_config.tower != "modified_resnet":
            return f"the image tower {config.vision_config.tower} has no graph"
        if head == "voice" and config.audio_config.tower != "shared":
            return f"the audio tower {config.audio_config.tower} has no graph"
        if self._model.device.type != "cpu":
            return f"the model is on {self._model.device}, not on the CPU"
        if self._model.dtype != torch.float32:
            return f"the model's weights are {str(self._model.dtype).removeprefix('torch.')}, not float32"
        return "the model is in training mode" if self._model.training else None

    def _graph(self, head: Head, rows: torch.Tensor) -> "_Graph":
        with self._lock:
            graph = self._graphs.get(head)
            if graph is None or not graph.takes(rows):
                graph = _Graph(self._model.emoclip.vision_model, MODALITIES[head], rows.shape[1:], self._threads)
                self._graphs[head] = graph
            return graph


class _Graph:
    """A tower for one modality in ONNX Runtime.

    All threads that call it share `threads` threads. These do not spin while they wait for work, as is the default:
    it would take the processor from other callers.
    """

    def __init__(self, tower: nn.Module, modality: str, shape: torch.Size, threads: int):
        self._shape = shape  # of a row
        self._weights = [*tower.parameters(), *tower.buffers()]
        self._versions = self._count()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model, constants = tower_to_onnx(tower, modality, tuple(shape))
        self._constants = {name: onnxruntime.OrtValue.ortvalue_from_numpy(each) for name, each in constants.items()}
        options.add_external_initializers(list(self._constants), list(self._constants.values()))
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _count(self) -> list[int]:
        return [weight._version for weight in self._weights]  # PyTorch counts what is written to a tensor

    def takes(self, rows: torch.Tensor) -> bool:
        """Whether it is of this shape of rows, and the weights are those that it was made of."""
        return rows.shape[1:] == self._shape and self._count() == self._versions

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, D)."""
        return torch.from_numpy(self._session.run(None, {"rows": rows.numpy()})[0])


# --------------------------------------------------------------------------------------------------------------------
# From weights to a graph


def tower_to_onnx(
    tower: nn.Module, modality: str, shape: tuple[int, int, int]
) -> "tuple[onnx.ModelProto, dict[str, np.ndarray]]":
    """A `ModifiedResNet` in evaluation mode, for one modality, as an ONNX model: `rows` (B, *shape) to (B, D).

    torch.onnx.export would do the same for any tower; it takes 7 s for each, and more packages.

    Returns:
        The model, and by name its constants that lie outside of it; most are the weights' own memory.
    """
    graph = _Nodes()
    x = _resized(graph, "rows", shape[1:], tower.image_sizes[modality])
    if shape[0] == 1:
        x = graph("Expand", x, np.array([1, 3, 1, 1]))
    for conv, norm in ((tower.conv1, tower.bn1), (tower.conv2, tower.bn2), (tower.conv3, tower.bn3)):
        x = graph("Relu", _convolved(graph, x, conv, norm, modality))
    x = _pooled(graph, x, nn.AvgPool2d(2))
    for block in tower.layers:
        out = graph("Relu", _convolved(graph, x, block.conv1, block.bn1, modality))
        out = graph("Relu", _convolved(graph, out, block.conv2, block.bn2, modality))
        out = _convolved(graph, _pooled(graph, out, block.pool), block.conv3, block.bn3, modality)
        if block.downsample_conv is not None:
            x = _pooled(graph, x, block.pool)
            x = _convolved(graph, x, block.downsample_conv, block.downsample_bn, modality)
        x = graph("Relu", graph("Add", out, x))
    features = _attention_pooled(graph, x, tower.attnpool, modality)
    return graph.model({"rows": shape}, {features: (tower.attnpool.c_proj.out_features,)})


class _Nodes:
    """The nodes and constants of an ONNX graph, as they are added. Calling it adds a node, whose inputs are names of
    other nodes' outputs, or arrays, and gives the name of its output."""

    def __init__(self):
        self._nodes: list[onnx.NodeProto] = []
        self._inside: list[onnx.TensorProto] = []
        self._outside: dict[str, np.ndarray] = {}

    def __call__(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        names = [given if isinstance(given, str) else self._constant(given) for given in inputs]
        output = f"node{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def _constant(self, values: np.ndarray) -> str:
        name = f"constant{len(self._inside)}"
        if values.ndim < 2:  # small; and of shapes and axes onnxruntime wants to know the values
            self._inside.append(numpy_helper.from_array(values, name))
            return name
        tensor = onnx.TensorProto(name=name, dims=values.shape, data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="memory")
        self._inside.append(tensor)
        self._outside[name] = np.ascontiguousarray(values)
        return name

    def model(
        self, inputs: dict[str, tuple[int, ...]], outputs: dict[str, tuple[int, ...]]
    ) -> "tuple[onnx.ModelProto, dict[str, np.ndarray]]":
        """The whole, of float32 inputs and outputs, each with the shape of a row; as `tower_to_onnx`."""
        described = (
            [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", *shape]) for name, shape in of.items()]
            for of in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, "tower", *described, self._inside)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), self._outside


def _values(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _resized(graph: _Nodes, x: str, before: tuple[int, int], after: tuple[int, int]) -> str:
    """torch's antialiased bilinear resampling as two matrix products with its own weights: ONNX's own operator
    differs."""
    if before == after:
        return x
    rows, columns = (
        F.interpolate(torch.eye(old)[None, None], (new, old), mode="bilinear", antialias=True)[0, 0]
        for old, new in zip(before, after)
    )
    return graph("MatMul", graph("MatMul", rows.numpy(), x), columns.T.numpy())


def _convolved(graph: _Nodes, x: str, conv: nn.Conv2d, norms: nn.ModuleDict, modality: str) -> str:
    """A convolution and the batch norm after it, which onnxruntime makes one."""
    norm = norms[modality if modality in norms else "image"]
    x = graph("Conv", x, _values(conv.weight), strides=conv.stride, pads=2 * conv.padding)
    statistics = map(_values, (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    return graph("BatchNormalization", x, *statistics, epsilon=norm.eps)


def _pooled(graph: _Nodes, x: str, pool: nn.AvgPool2d | nn.Identity) -> str:
    if isinstance(pool, nn.Identity):
        return x
    return graph("AveragePool", x, kernel_shape=2 * [pool.kernel_size], strides=2 * [pool.stride])


def _linear(graph: _Nodes, x: str, linear: nn.Linear) -> str:
    return graph("Add", graph("MatMul", x, _values(linear.weight).T), _values(linear.bias))


def _attention_pooled(graph: _Nodes, x: str, pool: nn.Module, modality: str) -> str:
    """CLIP's pooling of a map (B, width, H, W), see `AttentionPool2d`, to (B, D)."""
    width, heads = pool.q_proj.in_features, pool.num_heads
    x = graph("Transpose", graph("Reshape", x, np.array([0, width, -1])), perm=[0, 2, 1])  # (B, H * W, width)
    mean = graph("ReduceMean", x, np.array([1]))  # (B, 1, width)
    cells = graph("Add", graph("Concat", mean, x, axis=1), _values(pool.positional_embedding[modality]))
    first = graph("Gather", cells, np.array([0]), axis=1)  # the query, (B, 1, width)
    query, key, value = (
        graph("Reshape", _linear(graph, of, proj), np.array([0, -1, heads, width // heads]))
        for of, proj in ((first, pool.q_proj), (cells, pool.k_proj), (cells, pool.v_proj))
    )
    query = graph("Mul", query, np.array((width // heads) ** -0.5, np.float32))
    query, value = (graph("Transpose", of, perm=[0, 2, 1, 3]) for of in (query, value))  # (B, heads, cells, 64)
    key = graph("Transpose", key, perm=[0, 2, 3, 1])
    weights = graph("Softmax", graph("MatMul", query, key), axis=-1)  # (B, heads, 1, cells)
    return _linear(graph, graph("Reshape", graph("MatMul", weights, value), np.array([0, width])), pool.c_proj)
