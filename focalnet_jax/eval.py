"""Evaluate a checkpoint on all validation images: python eval.py --config configs/X.py --checkpoint WORKDIR."""

import signal
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Parses the flags, evaluates, and prints the result as the last line."""
    from focalnet_jax.distributed.flags import add_flags
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.config_files import load_config, named_keys
    from focalnet_jax.programs.flags import add_which_flag, make_script_parser, parse_arguments
    from focalnet_jax.settings import settings_of

    parser = make_script_parser("eval", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="the recipe of the training run")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="workdir (its newest step), step, .pth or .safetensors file, Hugging Face directory, or hf://ORG/NAME",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE.json",
        help="file to write all predictions to, in COCO's format (detection)",
    )
    add_which_flag(parser)
    add_flags(parser)
    flags, overrides = parse_arguments(parser, arguments)
    config = load_config(flags.config, overrides, optional=["init_from"])
    if flags.results is not None and not settings_of(config.task).RECORDS:
        raise UserError(f"--results: config.task={config.task} has no format of predictions; leave --results out")
    if flags.results is not None and not flags.results.absolute().parent.is_dir():
        raise UserError(f"--results {flags.results}: there is no folder {flags.results.parent}; create it first")
    # These imports take seconds, so mistakes in flags are reported first.
    from focalnet_jax.system.loading import loading

    with loading():
        from focalnet_jax.distributed.startup import connect
        from focalnet_jax.training.evaluate_checkpoint import evaluate_checkpoint
    connect(flags)
    evaluate_checkpoint(config, flags.checkpoint, flags.weights, named=named_keys(overrides), results=flags.results)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
