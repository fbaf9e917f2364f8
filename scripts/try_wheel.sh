#!/usr/bin/env bash
# Builds the wheel, installs it into a new environment of each given Python, and uses it outside the checkout:
#   scripts/try_wheel.sh python3.11 python3.13
# KEEP=DIR keeps the files in DIR; by default they are deleted.
set -euo pipefail
cd "$(dirname "$0")/.."
place=${KEEP:-$(mktemp -d)}
mkdir -p "$place"
[[ -n ${KEEP:-} ]] || trap 'rm -rf "$place"' EXIT

step() { printf '\n== %s\n' "$*"; }

for python in "${@:-python3}"; do
  step "$("$python" --version): a wheel built from a copy of the checkout, in a new environment"
  name=$(basename "$python")
  git archive --prefix="tree-$name/" HEAD | tar -x -C "$place"
  "$python" -m venv "$place/$name"
  bin=$place/$name/bin
  "$bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$place/wheel-$name" "$place/tree-$name"
  "$bin/python" -m pip install --quiet --disable-pip-version-check "$place/wheel-$name"/*.whl
  (
    mkdir -p "$place/elsewhere-$name"
    cd "$place/elsewhere-$name"
    step "focalnet, and the installed packages"
    "$bin/focalnet" --help
    "$bin/python" -m focalnet_jax
    step "a recipe of the wheel: train, evaluate, convert, predict, export"
    small=(--config.model.embed_dim=16 "--config.model.depths=(1,2)" --config.total_steps=40)
    "$bin/focalnet" train --config configs/quickstart.py --workdir run "${small[@]}" | tail -2
    "$bin/focalnet" eval --config configs/quickstart.py --checkpoint run "${small[@]}" | tail -1
    "$bin/focalnet" convert run weights.safetensors --to microsoft | tail -3
    "$bin/python" -c 'from PIL import Image; from sklearn.datasets import load_digits
Image.fromarray((load_digits().images[3] * 15).astype("uint8")).resize((96, 96)).save("three.png")'
    "$bin/focalnet" predict three.png --checkpoint run
    "$bin/focalnet" export run model.stablehlo | tail -1
    step "py.typed is installed, so type checkers use the annotations"
    "$bin/python" -c 'import focalnet_jax, pathlib
assert (pathlib.Path(focalnet_jax.__file__).parent / "py.typed").is_file()
print(focalnet_jax.__file__)'
  )
done
step "everything passed"
