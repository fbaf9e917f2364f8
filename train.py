"""Train a FocalNet, or go on with a run: python train.py --config configs/quickstart.py --workdir runs/quickstart."""

import argparse

from focalnet_jax.command_line import load_config, parse_arguments, parse_workdir, run_command
from focalnet_jax.training.loop import train


def main(arguments: list[str]) -> int:
    """Parses flags and trains."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="a recipe, see configs/")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run lives; a run there goes on")
    flags, overrides = parse_arguments(parser, arguments)
    return train(load_config(flags.config, overrides), parse_workdir(flags.workdir))


if __name__ == "__main__":
    run_command(main)
