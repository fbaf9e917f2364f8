"""Plot and compare runs: python -m focalnet_jax.report WORKDIR... [--out report.html].

Writes one page that needs no other file: losses, metrics of the evaluations, learning rate, gradient norm, images per
second and input wait of all runs in the same axes, a table of their results (medians of images per second and input
wait), and the settings in which they differ. A folder of runs, such as a sweep's, means all of its runs. If the name
ends in .png, writes only the curves. Runs may still be in progress.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Parses flags and writes the report."""
    from focalnet_jax.errors import UserError
    from focalnet_jax.programs.flags import make_parser
    from focalnet_jax.system.files import check_result, write_result

    parser = make_parser("report", __doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR", help="runs, or folders of runs")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="file to write, .html or .png (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    flags = parser.parse_args(arguments)
    if flags.out.suffix.lower() not in (".html", ".png"):
        raise UserError(f"--out {flags.out}: expected a name that ends in .html or .png")
    check_result(flags.out, overwrite=flags.overwrite)
    try:
        import matplotlib  # noqa: F401 - draws the curves
    except ImportError as error:
        raise UserError("a report needs matplotlib: pip install 'focalnet_jax[viz]'") from error
    from focalnet_jax.report.page import DOTS, draw, page
    from focalnet_jax.report.runs import find_workdirs, read_run
    from focalnet_jax.visualize.figures import as_png

    workdirs = [workdir for named in flags.workdirs for workdir in find_workdirs(named)]
    runs = [read_run(workdir) for workdir in workdirs]
    if len({run.name for run in runs}) < len(runs):  # named by the differing parts of their paths
        whole = [workdir.resolve() for workdir in workdirs]
        shared = os.path.commonpath(whole)
        runs = [replace(run, name=os.path.relpath(path, shared)) for path, run in zip(whole, runs, strict=True)]
    write_result(flags.out, as_png(draw(runs), DOTS) if flags.out.suffix.lower() == ".png" else page(runs))
    print(f"{flags.out}: {len(runs)} runs" if len(runs) > 1 else f"{flags.out}: {runs[0].name}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
