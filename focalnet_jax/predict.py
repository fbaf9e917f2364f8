"""Say what pictures show: python -m focalnet_jax.predict PICTURE... --checkpoint PATH [--topk 5].

Pictures are resized and cropped as in an evaluation. With one picture or many, a line each of the most probable classes
and their probabilities; with --json, one JSON object a picture.
"""

import json
import signal
import sys

_TOGETHER = 16  # pictures a call


def main(arguments: list[str]) -> int:
    """Parses flags, prints a prediction for each picture."""
    from focalnet_jax.data.decode import LARGEST_SIDE
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.command_line import (
        add_classes_flag,
        add_weights_flags,
        check_number,
        make_parser,
        parse_size,
        printable,
    )

    parser = make_parser("predict", __doc__)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, or folders of them")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a workdir, a step, .pth, .safetensors or Hugging Face",
    )
    add_weights_flags(parser)
    add_classes_flag(parser)
    parser.add_argument("--image-size", metavar="S|HxW", help="by default what the weights state, or 224")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes to name: %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object a picture")
    flags = parser.parse_args(arguments)
    check_number("--topk", flags.topk, 1)
    size = parse_size("--image-size", flags.image_size, LARGEST_SIDE)

    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.inference import find_pictures, load_classifier, read_picture

    paths = find_pictures(flags.pictures)
    told = check_options(flags.option)
    stated = dict(image_size=size, options=told, which=flags.weights, classes=flags.classes)
    classifier = load_classifier(flags.checkpoint, flags.model, **stated)
    if not classifier.labels:
        raise UserError(f"{flags.checkpoint} has no classifier, so it predicts nothing")
    if classifier.assumed:
        how = classifier.preprocessing.describe()
        print(
            f"note: {flags.checkpoint} states no {classifier.assumed}; pictures are prepared as usual: {how}",
            file=sys.stderr,
        )
    broken = []
    for first in range(0, len(paths), _TOGETHER):
        pictures = {}
        for path in paths[first : first + _TOGETHER]:
            try:
                pictures[path] = read_picture(path)
            except UserError as error:
                broken.append(str(error))
        best = classifier.best(list(pictures.values()), flags.topk) if pictures else ((), ())
        for path, classes, probabilities in zip(pictures, *best, strict=True):
            likely = zip(classes, map(float, probabilities), strict=True)
            if flags.json:
                rows = [{"label": classifier.labels[each], "probability": share} for each, share in likely]
                print(json.dumps({"picture": str(path), "classes": rows}))
            else:
                said = ", ".join(f"{classifier.names[each]} {share:.1%}" for each, share in likely)
                print(printable(f"{path}: {said}"))
    if broken:
        raise UserError("; ".join(broken))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load is no traceback
    from focalnet_jax.programs.command_line import run_command

    run_command(main)
