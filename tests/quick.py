"""Flags of XLA for tests: most of a small test is compilation, so little is spent on it."""

QUICK = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",  # takes a third off a program's compilation, and the next a fifth
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
