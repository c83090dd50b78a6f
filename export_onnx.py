"""A checkpoint to ONNX, for any number of rows: a face alone, a voice alone, and both with their fusion.

    python export_onnx.py checkpoints/emoclip-small outputs/onnx

`face.onnx` takes `pixel_values`, `voice.onnx` takes `input_features`, `both.onnx` takes both. Their outputs have the
names, shapes and meaning of `EmoCLIPForEmotionClassification.forward`'s: logits are calibrated already, and -inf in
the column of a class that the voice head was not taught. The processor's files and config.json lie beside them.
"""

import argparse
import sys
import warnings
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F

from hub import HubError, load_pipeline
from modeling_emoclip import EmoCLIPForEmotionClassification

try:
    import onnx_ir
    from onnxscript import opset18 as op
except ImportError:
    onnx_ir = None

TOLERANCE = 1e-4  # absolute, between onnxruntime and torch
PATHS = {"face": ("pixel_values",), "voice": ("input_features",), "both": ("pixel_values", "input_features")}


def resample(image, size: list[int], *args):
    """torch's antialiased bilinear resampling of (B, C, H, W) as two matrix products with its own weights: ONNX's
    operator would move the logits by up to 1e-4."""
    rows, columns = (
        F.interpolate(torch.eye(before)[None, None], (after, before), mode="bilinear", antialias=True)[0, 0]
        for before, after in zip(image.shape[2:], size)
    )
    rows, columns = (op.Constant(value=onnx_ir.tensor(weights.numpy())) for weights in (rows, columns.T.contiguous()))
    return op.MatMul(op.MatMul(rows, image), columns)


def export(model: EmoCLIPForEmotionClassification, inputs: dict[str, torch.Tensor], file: Path):
    """Writes the part of the model that takes these inputs, examples of two rows or more."""
    with torch.no_grad():
        names = list(model(**inputs))
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():  # of torch's own
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            kwargs=inputs,
            f=file,
            dynamic_shapes={name: {0: batch} for name in inputs},
            input_names=list(inputs),
            output_names=names,
            custom_translation_table={torch.ops.aten._upsample_bilinear2d_aa.default: resample},
            external_data=False,
            verbose=False,
        )


def difference(model: EmoCLIPForEmotionClassification, inputs: dict[str, torch.Tensor], file: Path) -> float:
    """The largest absolute difference between the file's outputs, by onnxruntime, and the model's; infinite where one
    is -inf and the other is not."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    given = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        expected = model(**inputs)
    gaps = [
        torch.where(ours == theirs, 0.0, (ours - theirs).abs()).max()  # -inf - -inf would be NaN
        for ours, theirs in zip(expected.values(), map(torch.from_numpy, given))
    ]
    return max(gaps).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id")
    parser.add_argument("output_dir", help="the folder to write")
    args = parser.parse_args()
    if onnx_ir is None:
        sys.exit("export_onnx.py needs onnxscript: pip install onnxscript")
    try:
        pipe = load_pipeline(args.model, device="cpu")
    except HubError as error:
        sys.exit(f"export_onnx.py: {error}")
    folder, config, extractor = Path(args.output_dir), pipe.model.config, pipe.processor.feature_extractor
    if extractor.input_name != "input_features":
        sys.exit("export_onnx.py: ONNX has no adaptive maximum pooling, which AudioCLIP's own audio tower needs.")
    folder.mkdir(parents=True, exist_ok=True)
    side = config.vision_config.image_size
    shapes = {"pixel_values": (3, side, side), "input_features": (1, *extractor.stored_shape)}
    generator = torch.Generator().manual_seed(0)
    for name, arguments in PATHS.items():
        example, check = (
            {key: torch.randn(rows, *shapes[key], generator=generator) for key in arguments} for rows in (2, 5)
        )
        file = folder / f"{name}.onnx"
        export(pipe.model, example, file)
        gap = difference(pipe.model, check, file)
        if gap > TOLERANCE:
            sys.exit(f"export_onnx.py: {file} differs from the model by {gap:.0e}; do not use it.")
        print(f"{file}: {file.stat().st_size / 1e6:.0f} MB, within {gap:.0e} of torch")
    config.save_pretrained(folder)
    pipe.processor.save_pretrained(folder)


if __name__ == "__main__":
    main()
