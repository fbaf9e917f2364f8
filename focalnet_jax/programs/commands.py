"""All commands under one name: focalnet train --config configs/quickstart.py --workdir runs/quickstart.

`focalnet COMMAND ...` is `python -m focalnet_jax.COMMAND ...`; alone it says what there is.
"""

from __future__ import annotations

import runpy
import signal
import sys

COMMANDS = {
    "train": "train a model, or go on with a run",
    "eval": "measure a checkpoint on every validation image",
    "predict": "name what pictures show",
    "visualize": "draw where a model looks",
    "demo": "a local page to drop pictures on",
    "convert": "weights from and to PyTorch",
    "export": "a model as one file that runs without this package",
    "transfer": "features and probes of a frozen backbone",
    "sweep": "train with combinations of settings",
    "report": "draw runs as one page",
    "data.prepare": "a data set from folders, archives, shards or Parquet",
    "data.show": "draw what a run is trained on",
    "checkpoint": "what a run keeps, and whether it is whole",
    "aot": "compile a run for devices that are not here",
    "launch": "start a run in several processes",
}


def run() -> None:
    """Runs the command that the command line names first; 2 if there is none of that name."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load is no traceback
    from focalnet_jax.programs import command_line

    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        command_line.run_command(_tell)
    del sys.argv[1]
    command_line.CALLED_AS = "focalnet "
    runpy.run_module(f"focalnet_jax.{name}", run_name="__main__", alter_sys=True)


def _tell(arguments: list[str]) -> int:
    from focalnet_jax import __version__
    from focalnet_jax.errors import UserError, suggest

    name = arguments[0] if arguments else "--help"
    if name == "--version":
        print(f"focalnet_jax {__version__}")
    elif name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: focalnet COMMAND ...\n")
        print("\n".join(f"  {command:<{width}}  {what}" for command, what in COMMANDS.items()))
        print("\nfocalnet COMMAND --help explains each; python -m focalnet_jax says what is installed.")
    else:
        raise UserError(f"unknown command {name!r}.{suggest(name, COMMANDS) or ' Known: ' + ', '.join(COMMANDS)}")
    return 0
