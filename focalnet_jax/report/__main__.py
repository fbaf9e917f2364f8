"""Plot and compare runs: python -m focalnet_jax.report WORKDIR... [--out report.html].

This writes one page that needs no other files. It has curves of all runs in the same axes (losses, evaluation metrics,
learning rate, gradient norm, images per second and time waiting for input), a table of the results, and the settings in
which the runs differ. A folder of runs, such as the folder of a sweep, means all runs in it. If --out ends in .png,
only the curves are written. Runs may still be in progress.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Parses flags and writes the report."""
    from focalnet_jax.errors import UserError
    from focalnet_jax.hub.address import refuse_runs
    from focalnet_jax.programs.flags import make_parser
    from focalnet_jax.system.files import check_result, write_result

    parser = make_parser("report", __doc__)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR", help="workdirs of runs, or folders with workdirs")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="file to write, .html or .png (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing file")
    flags = parser.parse_args(arguments)
    if flags.out.suffix.lower() not in (".html", ".png"):
        raise UserError(f"--out {flags.out}: expected a name that ends in .html or .png")
    check_result(flags.out, overwrite=flags.overwrite)
    try:
        import matplotlib  # noqa: F401 - draws the curves
    except ImportError as error:
        raise UserError("a report needs matplotlib: pip install 'focalnet_jax[viz]'") from error
    from focalnet_jax.report.page import DOTS, draw, page
    from focalnet_jax.report.runs import find_workdirs, names_of, read_run
    from focalnet_jax.storage.address import to_path
    from focalnet_jax.visualize.figures import as_png

    for named in flags.workdirs:
        refuse_runs(named)
    workdirs = [workdir for named in flags.workdirs for workdir in find_workdirs(to_path(named))]
    runs = [read_run(workdir) for workdir in workdirs]
    if len({run.name for run in runs}) < len(runs):  # two have the same name: use the part of the paths that differs
        runs = [replace(run, name=name) for name, run in zip(names_of(workdirs), runs, strict=True)]
    write_result(flags.out, as_png(draw(runs), DOTS) if flags.out.suffix.lower() == ".png" else page(runs))
    print(f"{flags.out}: {len(runs)} runs" if len(runs) > 1 else f"{flags.out}: {runs[0].name}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
