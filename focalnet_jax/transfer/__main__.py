"""Probe a frozen backbone: python -m focalnet_jax.transfer knn linear few_shot --config FILE.py --checkpoint PATH.

Features are the last stage's normalized output, averaged over positions. Images are resized and cropped as in
evaluation. Classifiers are fitted to the features of data.train_split and evaluated on data.eval_split: nearest
neighbours (knn), logistic regression (linear), and ridge regression from few examples per class (few_shot). `features`
writes the features to --out FILE.npz. The last line of stdout is one JSON object with the accuracies in percent.
"""

import signal
from pathlib import Path

KINDS = ("features", "knn", "linear", "few_shot")


def main(arguments: list[str]) -> int:
    """Parses the flags, extracts features, and prints the accuracies of the classifiers."""
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.config_files import load_config, named_keys
    from focalnet_jax.programs.flags import add_checkpoint_flag, add_weights_flags, make_parser, parse_arguments
    from focalnet_jax.system.files import check_result

    parser = make_parser("transfer", __doc__)
    parser.add_argument("kinds", nargs="+", choices=KINDS, metavar="KIND", help=f"one or more of {', '.join(KINDS)}")
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:VARIANT]", help="recipe, whose data.* keys select the images"
    )
    add_checkpoint_flag(parser)
    add_weights_flags(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.npz", help="file to write the features to")
    parser.add_argument(
        "--shots",
        default="1,5,10,25",
        metavar="N,N",
        help="numbers of examples per class for few_shot (default: %(default)s)",
    )
    parser.add_argument(
        "--neighbours", default="10,20", metavar="K,K", help="numbers of neighbours for knn (default: %(default)s)"
    )
    flags, overrides = parse_arguments(parser, arguments)
    shots, neighbours = (_numbers(flag, getattr(flags, flag)) for flag in ("shots", "neighbours"))
    if "features" in flags.kinds and flags.out is None:
        raise UserError("features needs --out FILE.npz, the file to write")
    if flags.out is not None:
        if flags.out.suffix != ".npz":
            raise UserError(f"--out {flags.out}: expected a name that ends in .npz")
        check_result(flags.out)
    config = load_config(flags.config, overrides, optional=["init_from"])

    import numpy as np

    from focalnet_jax.convert.recognise import check_options
    from focalnet_jax.training.writers import to_json
    from focalnet_jax.transfer.extract import extract_features
    from focalnet_jax.transfer.probes import few_shot, linear_probe, nearest_neighbours

    train, test = extract_features(
        config,
        flags.checkpoint,
        flags.model,
        check_options(flags.option),
        flags.weights,
        named=named_keys(overrides),
    )
    if flags.out is not None:
        arrays = {
            f"{name}_{field}": getattr(split, field)
            for name, split in (("train", train), ("eval", test))
            for field in ("values", "labels")
        }
        try:
            np.savez(flags.out, **arrays)
        except OSError as error:
            raise UserError(f"cannot write --out {flags.out}: {error.strerror}; choose another file") from error
        print(
            f"{flags.out}: {len(train.labels)} training and {len(test.labels)} evaluation examples, "
            f"{train.values.shape[1]} features per example"
        )
    result = {"train_examples": len(train.labels), "examples": len(test.labels), "checkpoint": flags.checkpoint}
    if "knn" in flags.kinds:
        result |= nearest_neighbours(train, test, neighbours=neighbours)
    if "linear" in flags.kinds:
        result |= linear_probe(train, test)
    if "few_shot" in flags.kinds:
        fewest = int(np.unique(train.labels, return_counts=True)[1].min())
        possible = [count for count in shots if count <= fewest]
        if 0 < len(possible) < len(shots):
            left_out = ", ".join(str(count) for count in shots if count > fewest)
            print(f"few_shot with {left_out} examples per class is skipped: a class has only {fewest}", flush=True)
        result |= few_shot(train, test, shots=possible or shots)
    print(to_json(result))
    return 0


def _numbers(flag: str, text: str) -> list[int]:
    from focalnet_jax.errors import UserError

    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--{flag} {text}: expected whole numbers above 0, separated by commas")
    return sorted({int(part) for part in parts})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C while libraries load
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
