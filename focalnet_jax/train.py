"""Train a FocalNet, or resume a run: python train.py --config configs/quickstart.py --workdir runs/quickstart."""

import signal
import sys


def main(arguments: list[str]) -> int:
    """Parses the flags and trains. Returns the exit code."""
    from focalnet_jax.distributed.flags import add_flags
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.config_files import load_config
    from focalnet_jax.programs.flags import make_script_parser, parse_arguments, parse_workdir
    from focalnet_jax.programs.restarts import run_again

    parser = make_script_parser("train", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a recipe, see configs/")
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="folder of the run, or gs://BUCKET/NAME; a run in it is resumed"
    )
    parser.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="restart a run that fails, up to N times"
    )
    add_flags(parser)
    flags, overrides = parse_arguments(parser, arguments)
    config, workdir = load_config(flags.config, overrides), parse_workdir(flags.workdir)
    if flags.max_restarts < 0:
        raise UserError(f"--max-restarts {flags.max_restarts}: expected 0 or more")
    if flags.max_restarts:
        return run_again([sys.executable, *sys.orig_argv[1:], "--max-restarts=0"], flags.max_restarts)
    # These imports take seconds, so mistakes in flags are reported first.
    from focalnet_jax.system.loading import loading

    with loading():
        from focalnet_jax.distributed.startup import connect
        from focalnet_jax.training.loop import train
    connect(flags)  # after the checks of flags, so that no process waits for a process that ends with an error
    return train(config, workdir)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
