"""Write a model, including its weights, as one StableHLO file that runs without this package, for any batch size.

`jax.export.deserialize(open(FILE, "rb").read()).call(images)` runs the file: it maps normalized images [B, H, W, 3]
float32 to logits float32, [B, K] for a classifier and [B, H, W, K] for a segmentation model, or with --output classes
to the class with the largest logit, int32. Before the file is written, its output is compared with the model's own
logits on this machine.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

    from focalnet_jax.tasks.predictor import Predictor

PLATFORMS = ("cpu", "cuda", "tpu")
OUTPUTS = ("logits", "classes")
MOST_BYTES = 2**31 - 2**24  # the file is one protobuf message, at most 2 GiB
# Largest difference of logits by rounding, relative to an image's largest logit. float32: docs/parity.md measures 1e-6
# between implementations; a wrong constant, or another approximation of GELU, gives more than 1e-4. bfloat16:
# ten times the 5e-3 that docs/parity.md measures, because both sides round every activation to 8 bits.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
_BATCHES = (1, 3)  # sizes of the compared batches, because the export must run with any size


def main(arguments: list[str]) -> int:
    """Parses flags, exports the model, compares the export with it, and writes the file.

    Raises:
      UserError: the flags, the weights or the output path are not usable.
      RunFailedError: the logits of the export differ from those of the model by more than rounding.
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
        default=OUTPUTS[0],
        help="logits, or numbers of the classes with the largest logits (default: %(default)s)",
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
    if flags.output == "classes":
        predictor.check_head(flags.checkpoint)
    written = export(predictor, platforms, flags.output)
    compared = compare(written, predictor, out, flags.output)
    write_result(out, written)
    print(f"wrote {out}: {len(written) / 1e6:.1f} MB, {describe(predictor, flags.output)}, for {', '.join(platforms)}")
    print(compared)
    source = "stored with the weights"
    if predictor.assumed:
        source = f"the default, because the weights do not specify {predictor.assumed}"
    print(f"preprocessing, which is not part of the file ({source}): {predictor.describe_preprocessing()}")
    return 0


def describe(predictor: Predictor, output: str) -> str:
    """Returns the shapes of the input and the output of an export, such as `[B, 224, 224, 3] to logits [B, 1000]`."""
    import jax
    import jax.numpy as jnp

    images = jax.ShapeDtypeStruct((1, *predictor.preprocessing.size, 3), jnp.float32)
    logits = jax.eval_shape(lambda images: predictor.outputs(predictor.model, images), images)
    result = logits.shape[1:-1] if output == "classes" else logits.shape[1:]
    given, made = (f"[{', '.join(map(str, ('B', *shape)))}]" for shape in (images.shape[1:], result))
    return f"{given} to {output} {made}"


def compare(written: bytes, predictor: Predictor, out: Path, output: str = OUTPUTS[0]) -> str:
    """Compares the output of an exported model with the logits of the model on random normalized images.

    For classes, the difference is the largest logit minus the logit of the class in the output.

    Args:
      written: the export.
      predictor: the predictor that was exported.
      out: the file to be written, named in messages.
      output: one of `OUTPUTS`.

    Returns:
      A one-line report with the largest relative difference. If the export is for other platforms than the platform
      of this machine, the report says that nothing was compared.

    Raises:
      RunFailedError: logits differ by more than `TOLERANCES`, or the model's logits are not finite.
    """
    import jax
    import numpy as np
    from flax import nnx
    from jax import export as jax_export

    from focalnet_jax.errors import RunFailedError

    exported, platform = jax_export.deserialize(bytearray(written)), jax.default_backend()
    platform = "cuda" if platform == "gpu" else platform
    if platform not in exported.platforms:
        return f"not compared with the model: this machine runs {platform}, the file {', '.join(exported.platforms)}"
    graph, state = nnx.split(predictor.model)
    own_logits = jax.jit(lambda state, images: predictor.outputs(nnx.merge(graph, state), images))
    rng, differences = np.random.default_rng(0), []
    for batch in _BATCHES:
        images = rng.standard_normal((batch, *exported.in_avals[0].shape[1:]), np.float32)
        # Compiled explicitly: the cache of `jax.jit` would keep all programs, which contain the weights, in memory.
        given = np.asarray(jax.jit(exported.call).lower(images).compile()(images))
        for image, result in zip(images, given, strict=True):  # one by one: the logits of all pixels are large
            own = np.asarray(own_logits(state, image[None]))[0]
            if not np.isfinite(own).all():
                raise RunFailedError(f"{out} is not written: the model's logits of random images are NaN or infinite")
            if output == "classes":
                apart = own.max(axis=-1) - np.take_along_axis(own, result[..., None], axis=-1)[..., 0]
            else:
                apart = np.abs(result - own)
            differences.append(apart.max() / max(np.abs(own).max(), np.finfo(np.float32).tiny))
    difference = float(np.max(differences))
    precision = np.dtype(predictor.backbone.dtype).name
    if not difference <= TOLERANCES[precision]:  # also for NaN
        raise RunFailedError(
            f"{out} is not written, because its {output} differ from the model's by {difference:.1e} of the largest; "
            f"rounding in {precision} explains at most {TOLERANCES[precision]:.0e}: report this with the versions that "
            "python -m focalnet_jax prints"
        )
    return (
        f"compared with the model on {platform}, batches of {' and '.join(map(str, _BATCHES))} random images: largest "
        f"relative difference {difference:.1e}, at most {TOLERANCES[precision]:.0e} is rounding in {precision}"
    )


def export(predictor: Predictor, platforms: Sequence[str] = PLATFORMS, output: str = OUTPUTS[0]) -> bytes:
    """Returns a model with its weights as serialized StableHLO.

    The exported function maps normalized images `[B, H, W, 3]` float32 of any batch size to the logits of
    `Predictor.outputs`, or to the numbers of the classes with the largest logits, int32.

    Args:
      predictor: the predictor with the model. Images have the size in its preprocessing. Layers are exported with the
        XLA implementations, which run on all platforms.
      platforms: names among `PLATFORMS`.
      output: one of `OUTPUTS`.

    Raises:
      UserError: images of this size are too small for the model, or the weights are too large for one file.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax import export as jax_export

    from focalnet_jax.errors import UserError

    graph, state = nnx.graphdef(predictor.portable()), nnx.state(predictor.model)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if size > MOST_BYTES:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB; a StableHLO file can contain at most {MOST_BYTES / 1e9:.1f} GB"
        )
    height, width = predictor.preprocessing.size
    shape = jax_export.symbolic_shape(f"b, {height}, {width}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)

    def call(images: jax.Array) -> jax.Array:
        logits = predictor.outputs(nnx.merge(graph, state), images)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32) if output == "classes" else logits

    return jax_export.export(jax.jit(call), platforms=platforms)(images).serialize()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
