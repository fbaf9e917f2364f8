#!/bin/bash
# Trains on GPU nodes under SLURM, with one process per node that uses all its GPUs:
#   sbatch --nodes=4 launch/slurm.sh --config configs/imagenet22k.py:large_fl4 --workdir /shared/runs/l4 ...
# JAX finds the other nodes from srun's environment variables. SLURM sends a SIGTERM before the time limit (--signal):
# the run then saves and exits with 42, this script requeues the job, and the run resumes.
#SBATCH --job-name=focalnet
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

# XLA overlaps communication with independent computation. By default, communication and computation alternate.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"
# While a loop computes a block, XLA gathers the weights of the next block and sums the gradients of the previous block.
XLA_FLAGS+=" --xla_gpu_enable_pipelined_all_gather=true"
XLA_FLAGS+=" --xla_gpu_enable_pipelined_reduce_scatter=true"
XLA_FLAGS+=" --xla_gpu_enable_pipelined_all_reduce=true"
# XLA combines parameters into messages of 128 MiB: a block of FocalNet-L has 31 parameters, and most are small.
XLA_FLAGS+=" --xla_gpu_all_gather_combine_threshold_bytes=134217728"
XLA_FLAGS+=" --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728"
XLA_FLAGS+=" --xla_gpu_all_reduce_combine_threshold_bytes=134217728"
export XLA_FLAGS
# JAX's default, three quarters of the GPU's memory, leaves memory unused if nothing else runs on the GPU.
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92

# If a process fails, the other processes end without SLURM, which would kill them during a save.
srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" train.py "$@"
status=$?
if [ "$status" -eq 42 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
