"""Write a model as one StableHLO file that runs without this package, weights and all, for any batch size.

The file is what `jax.export.serialize` makes; `jax.export.deserialize(open(FILE, "rb").read()).call(images)` runs it:
normalized images [B, H, W, 3] float32 in, logits [B, K] float32 out.
"""

import dataclasses
import signal
import warnings
from pathlib import Path

PLATFORMS = ("cpu", "cuda", "tpu")
MOST_BYTES = 2**31 - 2**24  # a program is one message of at most 2 GiB


def main(arguments: list[str]) -> int:
    """Parses flags, exports, compares with the model, says what was written."""
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.command_line import add_weights_flags, make_parser, parse_size
    from focalnet_jax.system.files import check_result, write_result

    parser = make_parser("export", __doc__)
    parser.add_argument("checkpoint", metavar="SRC", help="a workdir, a checkpoint, .pth, .safetensors or Hugging Face")
    parser.add_argument("out", metavar="FILE", help="the file to write, such as focalnet.stablehlo")
    add_weights_flags(parser)
    parser.add_argument("--image-size", metavar="S|HxW", help="pixels; by default what the weights state, or 224")
    parser.add_argument("--precision", default="float32", help="float32 or bfloat16")
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="to run on, separated by commas: %(default)s")
    flags = parser.parse_args(arguments)
    size = parse_size("--image-size", flags.image_size)
    platforms = list(dict.fromkeys(flags.platforms.split(",")))
    if set(platforms) - set(PLATFORMS):
        raise UserError(f"--platforms {flags.platforms}: expected some of {', '.join(PLATFORMS)}")
    out = Path(flags.out)
    check_result(out)

    from focalnet_jax.convert.load import model_of
    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.convert.weights import read_weights
    from focalnet_jax.data.preprocessing import USUAL

    weights = read_weights(flags.checkpoint, flags.model, check_options(flags.option), which=flags.weights)
    for decision in weights.decisions:
        warnings.warn(f"{flags.checkpoint}: {decision}", stacklevel=2)
    model = model_of(weights, flags.precision)
    stated = weights.info.follow()
    how = stated or USUAL
    how = how if size is None else how.at(size)
    written = export(model, how.size, platforms)
    write_result(out, written)
    images, logits = f"[B, {how.size[0]}, {how.size[1]}, 3]", f"[B, {model.config.num_classes}]"
    print(f"wrote {out}: {len(written) / 1e6:.1f} MB, {images} to {logits}, for {', '.join(platforms)}")
    source = "the weights state" if stated else "the weights state none; usual is"
    if weights.info.normalization_only:
        source = "the weights state the normalization; the rest is usual"
    print(f"preprocessing, which the file does not hold ({source}): {how.describe()}")
    return 0


def export(model, image_size: int | tuple[int, int] = 224, platforms=PLATFORMS) -> bytes:
    """Returns a model's call on normalized images as serialized StableHLO, its weights in it.

    Images are `[B, H, W, 3]` float32, square if `image_size` is one number.

    Raises:
      UserError: images of this size are too small for it, or its weights too large for one file.
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

    config = dataclasses.replace(model.config, **dict.fromkeys(IMPLEMENTATIONS, "xla"))  # for any platform
    precision, params = get_precision(model.dtype), nnx.state(model)
    graph = nnx.graphdef(nnx.eval_shape(lambda: FocalNet(config, precision=precision, rngs=nnx.Rngs(0))))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > MOST_BYTES:
        raise UserError(f"the weights are {size / 1e9:.1f} GB; a StableHLO file holds {MOST_BYTES / 1e9:.1f} at most")
    height, width = sides(image_size)
    shape = jax_export.symbolic_shape(f"b, {height}, {width}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.jit(lambda images: nnx.merge(graph, params)(images))
    return jax_export.export(call, platforms=platforms)(images).serialize()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load is no traceback
    from focalnet_jax.programs.command_line import run_command

    run_command(main)
