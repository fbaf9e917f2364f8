"""Times non-maximum suppression on this machine: python benchmarks/nms.py.

Prints, for each number of boxes, the milliseconds of all overlaps at once (matrix), of one block after another (the
default), and of torchvision where it is installed. The implementations run in turns, and times are medians. Boxes are
like the proposals of a level: many around each of a few objects. The last line is one JSON object with the
milliseconds.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/nms.py

from benchmarks.flags import make_parser, positive
from benchmarks.turns import in_turns, installed
from focalnet_jax.ops.nms import sorted_nms
from focalnet_jax.programs.run_command import run_command

COUNTS = (1000, 2000, 4000, 8000)
THRESHOLD = 0.7  # of proposals


def proposals(count: int, seed: int = 0) -> np.ndarray:
    """Returns boxes `[count, 4]` around 30 objects in an image of 1333 x 800 pixels, in random order."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(16), np.log(400), (30, 2)))
    corners = rng.uniform(0, 1, (30, 2)) * ([1333, 800] - sides)
    objects = np.concatenate([corners, corners + sides], axis=1)
    chosen = rng.integers(0, 30, count)
    noise = rng.normal(0, 0.15, (count, 4)) * np.tile(sides[chosen], 2)
    return np.clip(objects[chosen] + noise, 0, [1333, 800, 1333, 800]).astype(np.float32)


FAST = jax.jit(sorted_nms, static_argnums=(1, 3))


def timed(boxes: jax.Array, valid: jax.Array, block: int) -> jax.Array:
    """Returns which boxes are kept, when they are computed."""
    return jax.block_until_ready(FAST(boxes, THRESHOLD, valid, block))


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=positive, default=7, help="measurements of each implementation (default: 7)")
    rounds = parser.parse_args(arguments).rounds
    results = {}
    for count in COUNTS:
        boxes, valid = jnp.asarray(proposals(count)), jnp.ones(count, bool)
        sizes = {"matrix": count, "blocks of 128": 128, "blocks of 256": 256, "blocks of 512": 512}
        calls = {name: partial(timed, boxes, valid, block) for name, block in sizes.items()}
        kept = {name: np.flatnonzero(call()).tolist() for name, call in calls.items()}
        if installed("torchvision"):
            import torch
            import torchvision.ops

            given = torch.from_numpy(np.array(boxes)), torch.arange(count, 0, -1, dtype=torch.float32)
            calls["torchvision (CPU)"] = lambda given=given: torchvision.ops.nms(*given, float(np.float32(THRESHOLD)))
            kept["torchvision (CPU)"] = sorted(calls["torchvision (CPU)"]().tolist())
        assert all(one == kept["matrix"] for one in kept.values()), "the implementations keep different boxes"
        results[count] = in_turns(calls, rounds)
        text = ", ".join(f"{name} {taken:.2f}" for name, taken in results[count].items())
        print(f"{jax.default_backend()}, {count} boxes, {len(kept['matrix'])} kept; ms: {text}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
