"""All commands under one name: focalnet train --config configs/quickstart.py --workdir runs/quickstart.

`focalnet COMMAND ...` is `python -m focalnet_jax.COMMAND ...`. `focalnet` alone lists all commands.
"""

from __future__ import annotations

import runpy
import signal
import sys

COMMANDS = {
    "train": "train or finetune a model, or resume a run",
    "eval": "evaluate a checkpoint on every validation image",
    "predict": "predict the contents of images",
    "visualize": "draw modulators, gates and class activations",
    "demo": "serve a local page to try a model on images",
    "convert": "convert weights from and to other formats",
    "export": "export a model as one file that runs without this package",
    "transfer": "extract features of a frozen backbone, and probe them",
    "sweep": "train with combinations of settings",
    "report": "compare runs on one page",
    "data.prepare": "prepare a data set from folders, archives, shards or Parquet",
    "data.show": "draw the training images of a run",
    "checkpoint": "list, verify, compare or delete checkpoints",
    "aot": "compile a run for hardware that is not here",
    "launch": "start a run in several processes",
}


def run() -> None:
    """Runs the command named by the first argument. Exits with 2 if there is no such command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C while libraries load
    from focalnet_jax.programs import flags
    from focalnet_jax.programs.run_command import run_command

    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        run_command(_show_help)
    del sys.argv[1]
    flags.CALLED_AS = flags.INSTALLED
    runpy.run_module(f"focalnet_jax.{name}", run_name="__main__", alter_sys=True)


def _show_help(arguments: list[str]) -> int:
    from focalnet_jax import __version__
    from focalnet_jax.errors import UserError, suggest

    name = arguments[0] if arguments else "--help"
    if name == "--version":
        print(f"focalnet_jax {__version__}")
    elif name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: focalnet COMMAND ...\n")
        print("\n".join(f"  {command:<{width}}  {text}" for command, text in COMMANDS.items()))
        print("\nfocalnet COMMAND --help explains a command; python -m focalnet_jax prints the installed versions.")
    else:
        raise UserError(f"unknown command {name!r}.{suggest(name, COMMANDS) or ' Known: ' + ', '.join(COMMANDS)}")
    return 0
