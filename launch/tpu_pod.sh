#!/bin/bash
# Trains on all hosts of a Cloud TPU VM pod, with data and runs in a bucket of Cloud Storage:
#   NAME=my-tpu ZONE=us-west4-a launch/tpu_pod.sh setup
#   NAME=my-tpu ZONE=us-west4-a launch/tpu_pod.sh train --config configs/imagenet22k.py:large_fl4 \
#       --workdir gs://BUCKET/runs/l4 --config.data.path=gs://BUCKET/imagenet22k ...
#   NAME=my-tpu ZONE=us-west4-a launch/tpu_pod.sh stop
# setup copies this checkout to every host and installs it there. It needs Python 3.11 or newer. If python3 of the hosts
# is older, install a newer one on all hosts (sudo apt-get install -y python3.11-venv) and set PYTHON=python3.11.
# The service account of the TPU needs the roles Storage Object User and Storage Legacy Bucket Reader on the bucket.
# Each host copies the data to its disk of 100 GiB (docs/data.md, Data in a bucket). If the data do not fit, attach a
# disk with the data or mount the bucket with gcsfuse, and pass the folder as data.path (docs/scale.md, Data larger
# than a host's disk).
# stop makes the run save and end, like a maintenance event; the same train command resumes it.
set -eu
: "${NAME:?the name of the TPU}" "${ZONE:?its zone}"
FOLDER="${FOLDER:-focalnet_jax}" PYTHON="${PYTHON:-python3}"

everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"; }

case "${1:-}" in
setup)
    refusal="$PYTHON is not Python 3.11 or newer with venv: on all hosts, run sudo apt-get install -y python3.11-venv"
    everywhere "$PYTHON -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        { echo \"\$(hostname): $refusal; then repeat setup with PYTHON=python3.11\" >&2; exit 1; }"
    tar --exclude=.git --exclude='.venv*' --exclude=runs -czf /tmp/focalnet_jax.tgz .
    gcloud compute tpus tpu-vm scp /tmp/focalnet_jax.tgz "$NAME:" --zone "$ZONE" --worker=all
    everywhere "mkdir -p $FOLDER && tar -xzf focalnet_jax.tgz -C $FOLDER && cd $FOLDER && $PYTHON -m venv .venv &&
        .venv/bin/pip install --quiet '.[tpu,gcs]'"
    ;;
train)
    shift
    # With these flags, XLA overlaps the gathers and sums of one block with the computation of another block. Each host
    # caches its compiled program for the next start.
    everywhere "cd $FOLDER && LIBTPU_INIT_ARGS='--xla_tpu_enable_async_collective_fusion=true \
--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_overlap_compute_collective_tc=true \
--xla_enable_async_all_gather=true' .venv/bin/python train.py $(printf '%q ' "$@")"
    ;;
stop)
    everywhere "pkill -TERM -f '[t]rain.py -' || true" # the brackets keep pkill from matching itself
    ;;
*)
    echo "usage: NAME=... ZONE=... $0 {setup,train ...,stop}" >&2
    exit 2
    ;;
esac
