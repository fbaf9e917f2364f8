"""XLA flags for tests. They reduce optimisation, because a small test spends most of its time in compilation."""

from importlib.metadata import version

_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):  # XLA ends the process if it does not know a flag
    _FLAGS.append(
        "--xla_cpu_use_fusion_emitters=false"
    )  # saves a third of the time of the first compilation, a fifth of later ones
QUICK = " ".join(_FLAGS)
