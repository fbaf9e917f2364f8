#!/bin/bash
# Nodes of GPUs under SLURM, one process a node, which drives all its GPUs:
#   sbatch --nodes=4 launch/slurm.sh --config configs/imagenet22k.py:large_fl4 --workdir /shared/runs/l4 ...
# JAX finds the other nodes by srun's environment. SLURM's warning before the time limit (--signal) makes the run save
# and exit with 42, upon which the job is queued again and goes on.
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

# Exchanges run beside what does not need them; without it each waits for its turn.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_latency_hiding_scheduler=true"
# A loop's next weights are gathered while the block before computes, and so for what is summed.
XLA_FLAGS+=" --xla_gpu_enable_pipelined_all_gather=true"
XLA_FLAGS+=" --xla_gpu_enable_pipelined_reduce_scatter=true"
XLA_FLAGS+=" --xla_gpu_enable_pipelined_all_reduce=true"
# One message for many parameters: a block of FocalNet-L has 31 of them, most of which are small. 128 MiB.
XLA_FLAGS+=" --xla_gpu_all_gather_combine_threshold_bytes=134217728"
XLA_FLAGS+=" --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728"
XLA_FLAGS+=" --xla_gpu_all_reduce_combine_threshold_bytes=134217728"
export XLA_FLAGS
# The usual three quarters of a GPU leave too much unused where nothing else runs on it.
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92

# One that fails ends the others by itself; SLURM would kill them in the middle of a save.
srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" train.py "$@"
status=$?
if [ "$status" -eq 42 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
