"""Flags of XLA for tests: most of a small test is compilation, so little is spent on it."""

from importlib.metadata import version

_FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):  # a flag that XLA does not know ends the process
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # a third less time for the first compilation, then a fifth
QUICK = " ".join(_FLAGS)
