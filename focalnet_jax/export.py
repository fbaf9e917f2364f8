"""Write a model with its weights as one StableHLO file that runs without this package, for any batch size.

`jax.export.deserialize(open(FILE, "rb").read()).call(images)` runs the file. The images are normalized, [B, H, W, 3]
float32. The result is the logits, float32: [B, K] for a classifier, [B, H, W, K] for a segmentation model. With
--output classes, it is the index of the largest logit, int32.

The file of a detector is run with `.call(images, sizes)`. The sizes [B, 2] int32 are the heights and widths of the
images without padding. The result is a dict: boxes [B, D, 4], scores [B, D], labels [B, D] (-1 in unused entries), and
masks [B, D, h, w] if the detector has masks. Before the file is written, its result is compared with that of the model,
if the file is for the platform of this machine.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from focalnet_jax.tasks.predictor import Predictor

PLATFORMS = ("cpu", "cuda", "tpu")
OUTPUTS = ("logits", "classes", "detections")
MOST_BYTES = 2**31 - 2**24  # the file is one protobuf message, at most 2 GiB
# Largest difference that rounding explains: of logits, relative to an image's largest logit; of detections, the
# difference of scores, masks and relative coordinates.
# float32: docs/parity.md measures 1e-6 between implementations; a wrong constant, or another approximation of GELU,
# gives more than 1e-4. bfloat16: ten times the 5e-3 that docs/parity.md measures, because both sides round every
# activation to 8 bits.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
_BATCHES = (1, 3)  # sizes of the compared batches, because the export must run with any size


def main(arguments: list[str]) -> int:
    """Parses flags, exports the model, compares the export with it, and writes the file.

    Raises:
      UserError: the flags, the weights or the output path are not usable.
      RunFailedError: the result of the export differs from that of the model by more than rounding.
    """
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.flags import add_weights_flags, make_parser, parse_size
    from focalnet_jax.system.files import check_result, write_result

    parser = make_parser("export", __doc__)
    parser.add_argument(
        "checkpoint",
        metavar="SRC",
        help="workdir, step, .pth or .safetensors file, Hugging Face directory, or hf://ORG/NAME on the hub",
    )
    parser.add_argument("out", metavar="FILE", help="the file to write, such as focalnet.stablehlo")
    add_weights_flags(parser)
    parser.add_argument(
        "--image-size", metavar="S|HxW", help="input size in pixels (default: stored with the weights, or 224)"
    )
    parser.add_argument(
        "--output",
        choices=OUTPUTS,
        help="logits or detections (default: what the model has), or numbers of the classes with the largest logits",
    )
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    parser.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        help="platforms to export for, separated by commas (default: %(default)s)",
    )
    flags = parser.parse_args(arguments)
    size = parse_size("--image-size", flags.image_size)
    platforms = list(dict.fromkeys(flags.platforms.split(",")))
    if set(platforms) - set(PLATFORMS):
        raise UserError(f"--platforms {flags.platforms}: expected one or more of {', '.join(PLATFORMS)}")
    out = Path(flags.out)
    check_result(out)

    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.inference import load_predictor

    options = dict(image_size=size, dtype=flags.precision, options=check_options(flags.option), which=flags.weights)
    predictor = load_predictor(flags.checkpoint, flags.model, **options)
    output = flags.output or predictor.exports[0]
    if output not in predictor.exports:
        raise UserError(
            f"--output {output}: expected {' or '.join(predictor.exports)}, the outputs of {flags.checkpoint}"
        )
    if output == "classes":
        predictor.check_head(flags.checkpoint)
    written = export(predictor, platforms, output)
    compared = compare(written, predictor, out, output)
    write_result(out, written)
    print(f"wrote {out}: {len(written) / 1e6:.1f} MB, {describe(predictor, output)}, for {', '.join(platforms)}")
    print(compared)
    source = "stored with the weights"
    if predictor.assumed:
        source = f"the default, because the weights do not specify {predictor.assumed}"
    print(f"preprocessing, which is not part of the file ({source}): {predictor.describe_preprocessing()}")
    return 0


def describe(predictor: Predictor, output: str) -> str:
    """Returns the shapes of the arguments and the result of an export, such as `[B, 224, 224, 3] to logits [B, 1000]`.

    The arguments have names if there are several.
    """
    import jax

    inputs = predictor.export_inputs(np.random.default_rng(0), 1)
    result = jax.eval_shape(lambda inputs: predictor.outputs(predictor.model, inputs, output), inputs)

    def shape(array: Any) -> str:
        return f"[{', '.join(map(str, ('B', *array.shape[1:])))}]"

    given = [f"{name} {shape(each)}" if len(inputs) > 1 else shape(each) for name, each in inputs.items()]
    named = result if isinstance(result, dict) else {output: result}
    return f"{' and '.join(given)} to {', '.join(f'{name} {shape(each)}' for name, each in named.items())}"


def compare(written: bytes, predictor: Predictor, out: Path, output: str | None = None) -> str:
    """Compares the result of an exported model with that of the model for random images.

    Args:
      written: the export.
      predictor: the predictor that was exported.
      out: the file to be written, named in messages.
      output: one of the predictor's `exports`; by default the first.

    Returns:
      A one-line report with the largest relative difference. If the export is for other platforms than the platform
      of this machine, the report says that nothing was compared.

    Raises:
      RunFailedError: results differ by more than `TOLERANCES`, or the model's results are not finite.
    """
    import jax
    from flax import nnx
    from jax import export as jax_export

    from focalnet_jax.errors import RunFailedError

    exported, platform = jax_export.deserialize(bytearray(written)), jax.default_backend()
    platform = "cuda" if platform == "gpu" else platform
    if platform not in exported.platforms:
        return f"not compared with the model: this machine runs {platform}, the file {', '.join(exported.platforms)}"
    graph, state = nnx.split(predictor.model)
    own_result = jax.jit(lambda state, inputs: predictor.outputs(nnx.merge(graph, state), inputs, predictor.exports[0]))
    precision, output = np.dtype(predictor.backbone.dtype).name, output or predictor.exports[0]
    rng, differences, tolerance, found = np.random.default_rng(0), [], TOLERANCES[precision], 0
    for batch in _BATCHES:
        inputs = predictor.export_inputs(rng, batch)
        # Compiled explicitly: the cache of `jax.jit` would keep all programs, which contain the weights, in memory.
        results = jax.device_get(jax.jit(exported.call).lower(*inputs.values()).compile()(*inputs.values()))
        for index in range(batch):  # one by one: the logits of all pixels are large
            single = {name: array[index : index + 1] for name, array in inputs.items()}
            own = jax.tree.map(lambda leaf: leaf[0], jax.device_get(own_result(state, single)))
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own)):
                kind = predictor.exports[0]
                raise RunFailedError(f"{out} is not written: the model's {kind} of random images are NaN or infinite")
            given = jax.tree.map(lambda leaf: leaf[index], results)  # noqa: B023
            differences.append(predictor.difference(given, own, output, tolerance))
            found += int(np.sum(own["labels"] >= 0)) if isinstance(own, dict) else 0
    difference = float(np.max(differences))
    if not difference <= tolerance:  # also for NaN
        raise RunFailedError(
            f"{out} is not written, because its {output} differ from the model's by {difference:.1e} of the largest; "
            f"rounding in {precision} explains at most {tolerance:.0e}: report this with the versions that "
            "python -m focalnet_jax prints"
        )
    counted = f" with {found} detections" if isinstance(own, dict) else ""
    return (
        f"compared with the model on {platform}, batches of {' and '.join(map(str, _BATCHES))} random images{counted}: "
        f"largest relative difference {difference:.1e}, at most {tolerance:.0e} is rounding in {precision}"
    )


def export(predictor: Predictor, platforms: Sequence[str] = PLATFORMS, output: str | None = None) -> bytes:
    """Returns a model with its weights as serialized StableHLO.

    The exported function maps the arrays of `Predictor.export_inputs`, such as normalized images `[B, H, W, 3]` float32
    of any batch size, to the result of `Predictor.outputs`.

    Args:
      predictor: the predictor with the model. Images have the size in its preprocessing. Layers are exported with the
        XLA implementations, which run on all platforms.
      platforms: names among `PLATFORMS`.
      output: one of the predictor's `exports`; by default the first.

    Raises:
      UserError: images of this size are too small for the model, or the weights are too large for one file.
    """
    import jax
    from flax import nnx
    from jax import export as jax_export

    from focalnet_jax.errors import UserError

    graph, state = nnx.graphdef(predictor.portable()), nnx.state(predictor.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if size > MOST_BYTES:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB; a StableHLO file can contain at most {MOST_BYTES / 1e9:.1f} GB"
        )
    (batch,) = jax_export.symbolic_shape("b")
    inputs = predictor.export_inputs(np.random.default_rng(0), 1)
    shapes = [jax.ShapeDtypeStruct((batch, *each.shape[1:]), each.dtype) for each in inputs.values()]

    def call(*arrays: jax.Array) -> Any:
        given = dict(zip(inputs, arrays, strict=True))
        return predictor.outputs(nnx.merge(graph, state), given, output or predictor.exports[0])

    return jax_export.export(jax.jit(call), platforms=platforms)(*shapes).serialize()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
