"""Compile the train or eval step of a recipe for absent hardware.

Prints whether the step fits in memory, its FLOPs, the bytes that devices exchange, and the compiler's estimate of its
time, which is not a measurement. Needs the compiler for TPUs (`pip install 'focalnet_jax[tpu]'`) or for GPUs
(docs/scale.md).
"""

import json
import logging
import os
import signal


def main(arguments: list[str]) -> int:
    """Parses the flags, compiles the step, and prints a table and, as the last line, the result as JSON."""
    import jax

    from focalnet_jax.aot.compilation import compile_step, search
    from focalnet_jax.aot.report import summary, table
    from focalnet_jax.aot.topology import describe_devices
    from focalnet_jax.config import REQUIRED, flatten, is_auto, replaced
    from focalnet_jax.distributed.mesh import run_mesh
    from focalnet_jax.programs.config_files import load_config
    from focalnet_jax.programs.flags import make_parser, parse_arguments
    from focalnet_jax.settings import settings_of
    from focalnet_jax.tasks import task_kind
    from focalnet_jax.training.resolve import resolve

    jax.config.update("jax_platforms", "cpu")  # the compilers need no devices, so do not search for any
    parser = make_parser("aot", __doc__)
    parser.add_argument("--config", required=True, metavar="FILE.py[:VARIANT]", help="the recipe")
    parser.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE", help="such as v5e:4x4, v4:2x2x4, v6e:8x8, h100:8"
    )
    parser.add_argument(
        "--slices", type=int, default=1, help="number of slices, connected by the data centre's network"
    )
    parser.add_argument("--step", choices=["train", "eval"], default="train", help="which step to compile")
    parser.add_argument(
        "--search", action="store_true", help="find the cheapest remat policy that fits, and the largest batch"
    )
    flags, overrides = parse_arguments(parser, arguments)
    # A step has the same cost with any data and weights, so it needs neither.
    config = load_config(flags.config, overrides, optional=["data.path", "init_from"])
    config = replaced(config, {key: None for key in ("data.path", "init_from") if flatten(config)[key] == REQUIRED})
    devices, chip = describe_devices(flags.topology, flags.slices)
    mesh, kind = run_mesh(config.mesh.to_dict(), devices), task_kind(config.task)
    by_data = (*settings_of(config.task).AUTO, "batch_size")
    unresolved = any(is_auto(config, key) for key in by_data)
    source = kind.open_examples(config) if unresolved and config.data.path is not None else None
    config = resolve(config, mesh, source)
    if flags.search:
        attempt, suggestion = search(config, mesh, chip, flags.step)
    else:
        attempt, suggestion = compile_step(config, mesh, chip, flags.step), {}
    topology = f"{flags.slices}x {flags.topology}" if flags.slices > 1 else flags.topology
    result = summary(config, topology, mesh, chip, attempt) | suggestion
    print(table(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while libraries load prints no traceback
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides the compilers' warnings that no device is present
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.CRITICAL)
    from focalnet_jax.programs.run_command import run_command

    run_command(main)
