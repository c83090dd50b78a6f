"""The page that runs in the browser alone, from a checkpoint: its files, the network as ONNX, and onnxruntime-web.

    python build_web.py                                              # to outputs/web; needs npm, for onnxruntime-web
    python build_web.py --push_to_hub me/emoclip-in-the-browser      # and published as a static Space

What the page shows is the reading "perceived", as the demo does. Everything that belongs to the checkpoint is taken
from it: recipes and calibration lie in the graphs, thresholds and labels in settings.json beside them.
"""

import argparse
import base64
import hashlib
import html
import inspect
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import onnx
import silero_vad
import torch
from onnx import helper, numpy_helper
from PIL import Image
from torch import nn

import media_emoclip
import recognizer_emoclip
from demo import limits, live_session, verdict
from demo.emotions import adjective
from demo.head import TITLE
from demo.live_page import answer_card, live_page
from demo.page import HEADER, PORTRAIT, STATIC, asset
from demo.preview import Preview
from export_onnx import resample
from hub import EXAMPLES, HubError, load_pipeline, publish_space
from pipeline_emoclip import EmotionRecognitionPipeline
from processing_emoclip import CANCELLED, EmoCLIPFeatureExtractor
from results_emoclip import CONFLICT
from tracking_emoclip import STILL_IOU, TRACK_IOU

try:
    from onnxscript.optimizer import fold_constants, remove_unused_nodes
except ImportError:
    fold_constants = None

READING = "perceived"
WEB = Path(__file__).parent / "web"
DESCRIPTION = (
    "See which emotion your face and your voice show, live. The network runs in your own browser: nothing is uploaded."
)
PROMISE = "Nothing leaves this browser: pictures and sound are looked at on this page, and never sent or saved."
EXAMPLE_PHOTO, EXAMPLE_RECORDING = EXAMPLES / "astronaut.jpg", EXAMPLES / "reading-short.flac"
#: The npm package, and the digest by which npm knows this version of it.
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_DIGEST = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
SMALL = 4096  # numbers: constants of so many, or fewer, stay in their graph
OPSET = 18


class BuildError(Exception):
    """Why the page cannot be built, in one sentence that says what to do."""


# --------------------------------------------------------------------------------------------------------------------
# The network


class FaceGraph(nn.Module):
    """A face (1, side, side, 3) uint8, grey where the model's are, to its log-posterior (1, C)."""

    def __init__(self, pipe: EmotionRecognitionPipeline):
        super().__init__()
        self.model, self.processor = pipe.model, pipe.processor.image_processor

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        pixels = self.processor.standardize(face.permute(0, 3, 1, 2) / 255)
        return self.model(pixel_values=pixels, reading=READING).face_logits.log_softmax(-1)


class VoiceGraph(nn.Module):
    """A window of sound (1, T) at the extractor's rate to its log-posterior (1, C)."""

    def __init__(self, pipe: EmotionRecognitionPipeline):
        super().__init__()
        self.model, self.extractor = pipe.model, pipe.processor.feature_extractor
        self.extractor.spectrogram(torch.zeros(1, self.extractor.num_samples))  # makes filters, which export cannot

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        features = self.extractor.standardize(self.extractor.spectrogram(samples))
        return self.model(input_features=features, reading=READING).voice_logits.log_softmax(-1)


class FusionGraph(nn.Module):
    """`fuse`: log-posteriors (1, C), of which the flags (1,) bool say whether they are there."""

    def __init__(self, pipe: EmotionRecognitionPipeline):
        super().__init__()
        self.model = pipe.model

    def forward(self, face, voice, has_face, has_voice) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.fuse(face, voice, has_face, has_voice, READING)


class Weights:
    """The large constants of several graphs in one file, each of them once: faces and voices go through the same
    tower. A constant is stored in half precision where that loses nothing, as of a checkpoint that was saved so."""

    file = "weights.bin"

    def __init__(self):
        self._bytes = bytearray()
        self._offsets: dict[bytes, int] = {}

    def take(self, model: onnx.ModelProto) -> None:
        """Moves a graph's large constants here; what is stored in half precision is widened when it is loaded."""
        casts = []
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.size <= SMALL:
                continue
            if values.dtype == np.float32:
                with np.errstate(over="ignore"):
                    half = values.astype(np.float16)
                if np.array_equal(half.astype(np.float32), values):
                    name = f"{tensor.name}.half"
                    casts.append(helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
                    values = half
                    tensor.name, tensor.data_type = name, onnx.TensorProto.FLOAT16
            data = np.ascontiguousarray(values).tobytes()
            offset = self._offsets.setdefault(hashlib.sha256(data).digest(), len(self._bytes))
            if offset == len(self._bytes):
                self._bytes += data
            for form in ("raw_data", "float_data", "int32_data", "int64_data"):
                tensor.ClearField(form)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": self.file, "offset": str(offset), "length": str(len(data))}
            tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in place.items())
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    def save(self, folder: Path) -> None:
        """Writes the file."""
        (folder / self.file).write_bytes(self._bytes)


def export(module: nn.Module, inputs: dict[str, torch.Tensor], outputs: list[str]) -> onnx.ModelProto:
    """A module as ONNX, for inputs of these very shapes. Its constants keep the weights' own form, for `Weights`."""
    with warnings.catch_warnings():  # of torch's own
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten._upsample_bilinear2d_aa.default: resample},
            optimize=False,
            dynamo=True,
            verbose=False,
        )
    # Small constants are worked out now, so that onnxruntime sees which batch norm belongs to which convolution; the
    # large ones stay as the weights have them.
    fold_constants(program.model, input_size_limit=SMALL, output_size_limit=SMALL)
    remove_unused_nodes(program.model)
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # where in Python each came from, which is half of a graph's size
    return model


def build_network(pipe: EmotionRecognitionPipeline, folder: Path) -> None:
    """Writes the graphs of a model and of the detectors, and the settings, to a folder.

    Raises:
        BuildError: the page cannot show faces or voices as this model is shown them.
    """
    if fold_constants is None:
        raise BuildError("The graphs need onnxscript: pip install onnxscript")
    images, extractor = pipe.processor.image_processor, pipe.processor.feature_extractor
    if not isinstance(extractor, EmoCLIPFeatureExtractor):
        raise BuildError("The page knows log-mel voices only, and this model's audio tower reads waveforms.")
    if images.do_center_crop or images.resample != Image.Resampling.BICUBIC:
        raise BuildError("The page scales faces whole, by bicubic interpolation, and this model's processor does not.")
    folder.mkdir(parents=True, exist_ok=True)
    labels, side = len(pipe.model.config.labels), images.side
    row, flag = torch.full((1, labels), 1 / labels).log(), torch.ones(1, dtype=torch.bool)
    weights = Weights()
    for name, module, inputs, outputs in (
        ("face", FaceGraph(pipe), {"face": torch.zeros(1, side, side, 3, dtype=torch.uint8)}, ["log_probs"]),
        ("voice", VoiceGraph(pipe), {"samples": torch.zeros(1, extractor.num_samples)}, ["log_probs"]),
        (
            "fusion",
            FusionGraph(pipe),
            {"face": row, "voice": row.clone(), "has_face": flag, "has_voice": flag.clone()},
            ["fused", "agreement"],
        ),
    ):
        model = export(module, inputs, outputs)
        weights.take(model)
        onnx.save(model, folder / f"{name}.onnx")
    weights.save(folder)
    yunet = os.environ.get(media_emoclip.YUNET_VARIABLE) or media_emoclip.packaged_yunet()
    onnx.save(any_size(onnx.load(yunet)), folder / "yunet.onnx")
    (silero,) = find_spec("silero_vad").submodule_search_locations
    shutil.copy(Path(silero) / "data" / "silero_vad_16k_sequence.onnx", folder / "silero.onnx")
    (folder / "settings.json").write_text(json.dumps(settings(pipe), indent=1) + "\n")


def any_size(yunet: onnx.ModelProto) -> onnx.ModelProto:
    """YuNet, which was saved for pictures of 640 x 640, for those of any multiple of 32."""
    for value, dims in ((yunet.graph.input[0], (2, 3)), *((output, (1,)) for output in yunet.graph.output)):
        for i in dims:
            value.type.tensor_type.shape.dim[i].dim_param = f"{value.name}_{i}"
    del yunet.graph.value_info[:]
    return yunet


def settings(pipe: EmotionRecognitionPipeline) -> dict[str, Any]:
    """What the page's scripts need to know beside the graphs: of the checkpoint, of the detectors, of the demo."""
    config, extractor = pipe.model.config, pipe.processor.feature_extractor
    vad = inspect.signature(silero_vad.get_speech_timestamps).parameters
    speech = ("threshold", "min_speech_duration_ms", "min_silence_duration_ms", "speech_pad_ms")
    speech = {name: vad[name].default for name in speech}
    speech["exit_threshold"] = max(speech["threshold"] - 0.15, 0.01)  # as silero-vad has it
    return {
        "labels": config.labels,
        "words": {label: adjective(label) for label in config.labels},
        "thresholds": {head: config.head(head, READING).threshold for head in ("face", "voice")},
        "conflict": CONFLICT,
        "ahead": verdict.AHEAD,
        "confidence": list(verdict.CONFIDENCE.items()),
        "held_seconds": verdict.HELD_SECONDS,
        "valence": verdict.VALENCE,
        "arousal": verdict.AROUSAL,
        "faces": {
            "side": pipe.processor.image_processor.side,
            "grey": pipe.processor.image_processor.do_grayscale,
            "crop_side": media_emoclip.FACE_SIDE,
            "frame_side": media_emoclip.FRAME_SIDE,
            "search_side": media_emoclip.DETECTION_SIDE,
            "smallest_search_side": media_emoclip.SMALLEST_DETECTION_SIDE,
            "score": media_emoclip.YUNET_SCORE,
            "overlap": media_emoclip.YUNET_NMS_IOU,
            "sure_score": media_emoclip.SURE_SCORE,
            "turn_gain": media_emoclip.TURN_GAIN,
        },
        "voice": {
            "sampling_rate": extractor.sampling_rate,
            "window": extractor.num_samples,
            "hop_seconds": recognizer_emoclip.WINDOW_HOP_SECONDS,
            "min_speech_seconds": recognizer_emoclip.MIN_SPEECH_SECONDS,
            "silence_peak": media_emoclip.SILENCE_PEAK,
            "cancelled": CANCELLED,
            "speech": speech,
        },
        "live": {
            "search_side": live_session.SEARCH_SIDE,
            "half_life_seconds": live_session.HALF_LIFE_SECONDS,
            "face_kept_seconds": live_session.FACE_KEPT_SECONDS,
            "stopped_seconds": live_session.STOPPED_SECONDS,
            "voice_hop_seconds": live_session.VOICE_HOP_SECONDS,
            "silent_seconds": live_session.SILENT_SECONDS,
            "max_gap_seconds": live_session.MAX_GAP_SECONDS,
            "track_overlap": TRACK_IOU,
            "max_other_faces": limits.MAX_OTHER_FACES,
            "still_overlap": STILL_IOU,
        },
        "files": {
            "max_pixels": media_emoclip.MAX_IMAGE_PIXELS,
            "max_seconds": media_emoclip.MAX_AUDIO_SECONDS,
            "sampling_rate": extractor.sampling_rate,
        },
    }


# --------------------------------------------------------------------------------------------------------------------
# The page


def fetch_runtime(folder: Path) -> None:
    """Puts onnxruntime-web's files into a folder. npm gets the package, or has it in its cache.

    Raises:
        BuildError: there is no npm, it cannot get the package, or the package is not the one that was pinned.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            command = ["npm", "pack", RUNTIME, "--silent", "--prefer-offline", "--pack-destination", place]
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise BuildError(f"npm is needed, to get {RUNTIME}: install it (Debian: apt-get install npm).") from None
        except subprocess.CalledProcessError as error:
            reason = " ".join((error.stderr or error.stdout).split())[:300]
            raise BuildError(f"npm cannot get {RUNTIME}: {reason or 'it gives no reason'}.") from None
        (archive,) = Path(place).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != RUNTIME_DIGEST:
            raise BuildError(f"What npm gave is not {RUNTIME} as it was when this was written: do not use it.")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as package:
            for name in RUNTIME_FILES:
                (folder / name).write_bytes(package.extractfile(f"package/dist/{name}").read())


def build_page(pipe: EmotionRecognitionPipeline, output: Path, demo: str | None = None) -> None:
    """Writes the page to an empty or a new folder, all but the network and the runtime.

    Args:
        demo: address of a demo on a server, to link to.
    """
    folder = output / Path(asset("demo.css")).parent  # as the demo serves them
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [file for place in (STATIC, WEB) for file in place.iterdir() if file.suffix in (".js", ".css")]
    for file in (*scripts, PORTRAIT, EXAMPLE_PHOTO, EXAMPLE_RECORDING):
        shutil.copy(file, folder)  # web/connection.js comes after the demo's, and takes its place
    (output / "look" / "preview.json").write_text(json.dumps(Preview(pipe).answers))
    shutil.copy(WEB / "README.md", output)
    link = f' <a href="{html.escape(demo)}">The demo on a server</a> has videos and words, too.' if demo else ""
    page = Template((WEB / "index.html").read_text()).substitute(
        title=TITLE,
        description=DESCRIPTION,
        folder=folder.relative_to(output).as_posix(),
        header=HEADER,
        live=live_page(knows_neutral=False, promise=PROMISE),
        # its cards have the names of Live's, and no two regions of a page may
        answer=answer_card("Nothing to go by", "").replace("<section", '<section role="group"'),
        photo=EXAMPLE_PHOTO.name,
        recording=EXAMPLE_RECORDING.name,
        demo=link,
        megabytes=round(sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 1e6),
    )
    (output / "index.html").write_text(page)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/emoclip-small", help="folder or Hub id")
    parser.add_argument("--output", type=Path, default=Path("outputs/web"), help="the folder to write")
    parser.add_argument("--demo", help="address of a demo on a server, to link to")
    parser.add_argument("--push_to_hub", metavar="SPACE", help="owner/name of the static Space to publish to")
    args = parser.parse_args()
    try:
        pipe = load_pipeline(args.model, device="cpu", runtime="torch")
        if args.output.exists():
            if not (args.output / "network" / "settings.json").is_file():
                raise BuildError(f"{args.output} is there already and is no such page: name another folder.")
            shutil.rmtree(args.output)
        build_network(pipe, args.output / "network")
        fetch_runtime(args.output / Path(asset("demo.css")).parent)
        build_page(pipe, args.output, args.demo)
        size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
        print(f"{args.output}: {size / 1e6:.1f} MB. To try it: python -m http.server --directory {args.output}")
        if args.push_to_hub:
            print(f"Published: {publish_space(args.output, args.push_to_hub)}")
    except (BuildError, HubError) as error:
        sys.exit(f"build_web.py: {error}")


if __name__ == "__main__":
    main()
