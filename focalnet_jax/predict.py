"""Predict the contents of images: python -m focalnet_jax.predict IMAGE... --checkpoint PATH [--topk 5] [--out DIR].

Images are resized as in an evaluation. Prints one line per image: for a classifier, the most probable classes and their
probabilities; for a segmentation model, the largest classes and their shares of the pixels; for a detector, the number
of objects with a score of at least 30 % in each of the most frequent classes. With --json, prints one JSON object per
image. With --out, also draws each image with its prediction, and writes masks of segmentation models to DIR/masks.
"""

import json
import signal
import sys
from pathlib import Path

_BATCH = 16  # images per call of the model


def main(arguments: list[str]) -> int:
    """Parses flags, and prints the prediction for each image.

    Raises:
      UserError: flags or weights are unusable, or images are unreadable; the other images are still predicted.
    """
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
    from focalnet_jax.programs.run_command import printable
    from focalnet_jax.system.files import check_folder

    parser = make_parser("predict", __doc__)
    parser.add_argument("pictures", nargs="+", metavar="IMAGE", help="image files, or folders of images")
    add_checkpoint_flag(parser)
    add_weights_flags(parser)
    add_classes_flag(parser)
    parser.add_argument(
        "--image-size", metavar="S|HxW", help="input size in pixels (default: stored with the weights, or 224)"
    )
    parser.add_argument(
        "--topk", type=int, default=5, metavar="K", help="number of classes to print (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.add_argument("--out", type=Path, metavar="DIR", help="draw every image with its prediction into this folder")
    flags = parser.parse_args(arguments)
    if flags.out is not None:
        check_folder(flags.out, "--out")
    check_number("--topk", flags.topk, 1)
    size = parse_size("--image-size", flags.image_size, LARGEST_SIDE)

    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.data.drawing import encode_png
    from focalnet_jax.inference import find_pictures, load_predictor, read_picture
    from focalnet_jax.system.files import check_not_sources, output_file_names, write_result

    paths = find_pictures(flags.pictures)
    if flags.out is not None:
        drawings = {path: flags.out / f"{name}.png" for path, name in output_file_names(paths).items()}
        check_not_sources(drawings.values(), paths)
        sources = [path for path in paths if path.resolve().is_relative_to(flags.out.resolve())]
    stated = dict(image_size=size, options=check_options(flags.option), which=flags.weights, classes=flags.classes)
    predictor = load_predictor(flags.checkpoint, flags.model, **stated)
    predictor.check_head(flags.checkpoint)
    if predictor.assumed:
        how = predictor.describe_preprocessing()
        print(
            f"note: {flags.checkpoint} does not specify {predictor.assumed}; using the default: {how}",
            file=sys.stderr,
        )
    if flags.out is not None:
        flags.out.mkdir(parents=True, exist_ok=True)
    broken = []
    for first in range(0, len(paths), _BATCH):
        read = []  # pairs of path and image, because a path may be given twice
        for path in paths[first : first + _BATCH]:
            try:
                read.append((path, read_picture(path)))
            except UserError as error:
                broken.append(str(error))
        predictions = predictor.predictions([image for _, image in read], flags.topk)
        for (path, image), prediction in zip(read, predictions, strict=True):
            if flags.json:
                print(json.dumps({"picture": str(path), **prediction.json()}))
            else:
                print(printable(f"{path}: {prediction.line()}"))
            if flags.out is not None:
                write_result(drawings[path], encode_png(prediction.draw(image)))
                for folder, content in prediction.files().items():
                    target = flags.out / folder / drawings[path].name
                    check_not_sources([target], sources)
                    target.parent.mkdir(exist_ok=True)
                    write_result(target, content)
    if broken:
        raise UserError("; ".join(broken))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
