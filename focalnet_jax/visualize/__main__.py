"""Draw the maps of a model: python -m focalnet_jax.visualize --checkpoint PATH --images FILE|FOLDER... --out DIR.

For each image, this writes NAME.png and NAME.npz. By default, the figure shows the modulator and the gates of each
stage's last block, and the class activation of the most probable class. The .npz contains the maps of all blocks as
arrays. For each video, animated GIF or --frames FOLDER, it writes NAME.gif, with the maps of the last stage, and
NAME.npz. For the model, it writes kernels.png, with the depthwise kernels, and receptive_field.png, with the effective
receptive field of each stage, and an .npz for each.
"""

import os
import signal
from pathlib import Path

_MOST_CLASSES = 20  # one row of the figure per class


def main(arguments: list[str]) -> int:
    """Parses the flags and draws the figures."""
    from focalnet_jax.data.decode import LARGEST_SIDE
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.flags import (
        add_checkpoint_flag,
        add_classes_flag,
        add_weights_flags,
        check_number,
        make_parser,
        parse_size,
    )
    from focalnet_jax.system.files import check_folder

    parser = make_parser("visualize", __doc__)
    add_checkpoint_flag(parser)
    parser.add_argument("--images", nargs="+", default=[], metavar="PATH", help="images, videos, or folders with them")
    parser.add_argument(
        "--frames", nargs="+", default=[], metavar="FOLDER", help="folders, each with the frames of one video"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the figures")
    add_weights_flags(parser)
    add_classes_flag(parser)
    parser.add_argument(
        "--size",
        metavar="S|HxW",
        help="size in pixels that resized images cover (default: the size stored with the weights, or 224)",
    )
    parser.add_argument("--stage", type=int, metavar="N", help="draw only this stage, counted from 1")
    parser.add_argument(
        "--block", type=int, metavar="N", help="block of each stage, counted from 1 (default: the last)"
    )
    parser.add_argument(
        "--topk", type=int, default=1, metavar="K", help="number of class activations to draw (default: %(default)s)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every Nth frame (default: %(default)s)")
    parser.add_argument(
        "--most", type=int, default=100, metavar="N", help="largest number of frames per video (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing files")
    flags = parser.parse_args(arguments)
    if not flags.images and not flags.frames:
        raise UserError("--images and --frames are missing; expected an image, a video or a folder")
    for flag in ("stage", "block", "every", "most"):
        check_number(f"--{flag}", getattr(flags, flag), 1)
    size = parse_size("--size", flags.size, LARGEST_SIDE)
    check_number("--topk", flags.topk, 0, _MOST_CLASSES)
    check_folder(flags.out, "--out")
    try:
        import matplotlib  # noqa: F401 - draws the figures
    except ImportError as error:
        raise UserError("figures need matplotlib: pip install 'focalnet_jax[viz]'") from error

    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.inference import find_pictures, load_predictor
    from focalnet_jax.visualize.drawing import DrawOptions, draw
    from focalnet_jax.visualize.frames import VIDEOS, is_video

    found = find_pictures(flags.images, VIDEOS)
    for folder in flags.images:
        if os.path.isdir(folder) and flags.out.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(
                f"--out {flags.out} is in {folder}, so the next run would draw these figures too: choose another folder"
            )
    for folder in flags.frames:
        if not Path(folder).is_dir():
            raise UserError(f"--frames {folder}: expected a folder of images")
    videos = [path for path in found if is_video(path)]
    given = dict(image_size=size, options=check_options(flags.option), which=flags.weights, classes=flags.classes)
    predictor = load_predictor(flags.checkpoint, flags.model, **given)
    count = len(predictor.backbone.stages)
    if flags.stage is not None and flags.stage > count:
        raise UserError(f"--stage {flags.stage}: the model has {count} stages; expected 1 to {count}")
    deepest = max(
        predictor.backbone.config.depths if flags.stage is None else [predictor.backbone.config.depths[flags.stage - 1]]
    )
    if flags.block is not None and flags.block > deepest:
        raise UserError(f"--block {flags.block}: a stage has at most {deepest} blocks; expected 1 to {deepest}")
    stages = range(count) if flags.stage is None else [flags.stage - 1]
    options = DrawOptions(
        stages=tuple(stages),
        block=-1 if flags.block is None else flags.block - 1,
        topk=flags.topk,
        every=flags.every,
        most=flags.most,
    )
    images = [path for path in found if path not in videos]
    draw(predictor, images, [*videos, *map(Path, flags.frames)], flags.out, options, overwrite=flags.overwrite)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C while libraries load
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
