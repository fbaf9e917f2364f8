#!/bin/bash
# Trains on a TPU slice of a GKE cluster that xpk manages (pip install xpk), with data and runs in a bucket:
#   CLUSTER=my-cluster IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/focalnet_jax:latest TPU_TYPE=v5litepod-64 \
#       launch/xpk.sh RUN --config configs/imagenet22k.py:huge_fl4 --workdir gs://BUCKET/runs/RUN \
#       --config.data.path=gs://BUCKET/imagenet22k --config.mesh.fsdp=64 --config.batch_size=1024
# RUN is the name of the workload. The image must contain this package with the extras tpu and gcs, in /app. Each pod
# copies the data to the disk of its node; if the data do not fit, see docs/scale.md, Data larger than a host's disk.
# After an interruption, xpk restarts the workload and the run resumes. `xpk workload delete` stops it.
set -eu
: "${CLUSTER:?the name of the cluster}" "${IMAGE:?the image}" "${TPU_TYPE:?the type of the slice}"
if [ $# -lt 2 ]; then
    echo "usage: CLUSTER=... IMAGE=... TPU_TYPE=... $0 RUN --config ... --workdir gs://... " >&2
    exit 2
fi
RUN=$1
shift
# With these flags, XLA overlaps the gathers and sums of one block with the computation of another block.
FLAGS='--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
 --xla_tpu_overlap_compute_collective_tc=true --xla_enable_async_all_gather=true'
exec xpk workload create --cluster "$CLUSTER" --workload "$RUN" --tpu-type "$TPU_TYPE" --num-slices "${SLICES:-1}" \
    --docker-image "$IMAGE" --max-restarts 100 --termination-grace-period-seconds 120 \
    --env LIBTPU_INIT_ARGS="$(echo $FLAGS)" --command "cd /app && python train.py $(printf '%q ' "$@")"
