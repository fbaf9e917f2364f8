"""Write a model, including its weights, as one StableHLO file that runs without this package, for any batch size.

`jax.export.deserialize(open(FILE, "rb").read()).call(images)` runs the file: it maps normalized images [B, H, W, 3]
float32 to logits [B, K] float32. Before the file is written, its logits are compared with the model's own on this
machine.
"""

import dataclasses
import signal
from pathlib import Path

PLATFORMS = ("cpu", "cuda", "tpu")
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

    from focalnet_jax.convert.load import model_of
    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.convert.weights import read_weights
    from focalnet_jax.data.preprocessing import USUAL

    weights = read_weights(flags.checkpoint, flags.model, check_options(flags.option), which=flags.weights)
    weights.warn(flags.checkpoint)
    model = model_of(weights, flags.precision)
    stated = weights.info.follow()
    how = stated or USUAL
    how = how if size is None else how.at(size)
    written = export(model, how.size, platforms)
    compared = compare(written, model, how.size, out)
    write_result(out, written)
    images, logits = f"[B, {how.size[0]}, {how.size[1]}, 3]", f"[B, {model.config.num_classes}]"
    print(f"wrote {out}: {len(written) / 1e6:.1f} MB, {images} to {logits}, for {', '.join(platforms)}")
    print(compared)
    source = "stored with the weights" if stated else "not stored with the weights; this is the default"
    if weights.info.normalization_only:
        source = "the normalization is stored with the weights; the rest is the default"
    print(f"preprocessing, which is not part of the file ({source}): {how.describe()}")
    return 0


def compare(written: bytes, model, image_size: int | tuple[int, int], out: Path) -> str:
    """Compares the logits of an exported model with the logits of the model on random normalized images.

    Args:
      written: the export.
      model: the `FocalNet` that was exported.
      image_size: height and width of the images, or one number for both.
      out: the file to be written, named in messages.

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

    from focalnet_jax.data.preprocessing import sides
    from focalnet_jax.errors import RunFailedError

    exported, platform = jax_export.deserialize(bytearray(written)), jax.default_backend()
    platform = "cuda" if platform == "gpu" else platform
    if platform not in exported.platforms:
        return f"not compared with the model: this machine runs {platform}, the file {', '.join(exported.platforms)}"
    shape = (sum(_BATCHES), *sides(image_size), 3)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    graph, state = nnx.split(model)
    own = np.asarray(jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images))
    if not np.isfinite(own).all():
        raise RunFailedError(f"{out} is not written: the model's logits of random images are NaN or infinite")
    parts = np.split(images, np.cumsum(_BATCHES)[:-1])
    # Compiled explicitly: the cache of `jax.jit` would keep both programs, which contain the weights, in memory.
    logits = np.concatenate([jax.jit(exported.call).lower(part).compile()(part) for part in parts])
    scale = np.maximum(np.abs(own).max(axis=1), np.finfo(np.float32).tiny)
    difference = float((np.abs(logits - own).max(axis=1) / scale).max())
    precision = np.dtype(model.dtype).name
    if not difference <= TOLERANCES[precision]:  # also for NaN
        raise RunFailedError(
            f"{out} is not written, because its logits differ from the model's by {difference:.1e} of the largest; "
            f"rounding in {precision} explains at most {TOLERANCES[precision]:.0e}: report this with the versions that "
            "python -m focalnet_jax prints"
        )
    return (
        f"compared with the model on {platform}, batches of {' and '.join(map(str, _BATCHES))} random images: largest "
        f"relative difference {difference:.1e}, at most {TOLERANCES[precision]:.0e} is rounding in {precision}"
    )


def export(model, image_size: int | tuple[int, int] = 224, platforms=PLATFORMS) -> bytes:
    """Returns a model with its weights as serialized StableHLO.

    The exported function maps normalized images `[B, H, W, 3]` float32 of any batch size to logits `[B, K]` float32.

    Args:
      model: the `FocalNet`. Its layers are exported with the XLA implementations, which run on all platforms.
      image_size: height and width in pixels, or one number for both.
      platforms: names among `PLATFORMS`.

    Raises:
      UserError: images of this size are too small for the model, or the weights are too large for one file.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax import export as jax_export

    from focalnet_jax.data.preprocessing import sides
    from focalnet_jax.errors import UserError
    from focalnet_jax.model import FocalNet
    from focalnet_jax.model.precision import get_precision
    from focalnet_jax.ops.implementations import IMPLEMENTATIONS

    config = dataclasses.replace(model.config, **dict.fromkeys(IMPLEMENTATIONS, "xla"))  # runs on every platform
    precision, params = get_precision(model.dtype), nnx.state(model)
    graph = nnx.graphdef(nnx.eval_shape(lambda: FocalNet(config, precision=precision, rngs=nnx.Rngs(0))))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > MOST_BYTES:
        raise UserError(
            f"the weights are {size / 1e9:.1f} GB; a StableHLO file can contain at most {MOST_BYTES / 1e9:.1f} GB"
        )
    height, width = sides(image_size)
    shape = jax_export.symbolic_shape(f"b, {height}, {width}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.jit(lambda images: nnx.merge(graph, params)(images))
    return jax_export.export(call, platforms=platforms)(images).serialize()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
