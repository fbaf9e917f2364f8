"""Times RoIAlign on this machine: python benchmarks/roi_align.py.

Prints the milliseconds of each implementation, forward and backward, for the boxes of Mask R-CNN's training, and those
of torchvision where it is installed. "gather" takes the four neighbours of each sample by one gather per level, which
needs a fixed number of samples, so it is measured with --samples 2 and the like only. The implementations run in turns,
and times are medians. The last line is one JSON object with the milliseconds.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/roi_align.py

from benchmarks.flags import make_parser, positive
from benchmarks.turns import in_turns, installed
from focalnet_jax.errors import UserError
from focalnet_jax.ops.roi_align import IMPLEMENTATIONS, assign_levels, roi_align
from focalnet_jax.programs.run_command import run_command

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 800, 1344


def regions(count: int, seed: int = 0) -> np.ndarray:
    """Returns boxes `[1, count, 4]` of all sizes between 8 and 600 pixels, some of them long."""
    rng = np.random.default_rng(seed)
    scale, ratio = np.exp(rng.uniform(np.log(8), np.log(600), count)), np.exp(rng.normal(0, 0.5, count))
    sides = np.stack([scale * ratio, scale / ratio], axis=1)
    centres = rng.uniform(0, [WIDTH, HEIGHT], (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return np.clip(boxes, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(np.float32)[None]


def gather(maps: list[jax.Array], boxes: jax.Array, size: int, samples: int) -> jax.Array:
    """Returns RoIAlign of boxes inside the image by one gather of four neighbours per sample."""
    levels = assign_levels(boxes, len(maps))
    shapes = jnp.array([x.shape[1:3] for x in maps])
    starts = jnp.array([0, *np.cumsum([x.shape[1] * x.shape[2] for x in maps])[:-1]])
    cells = jnp.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in maps], axis=1)
    edges = boxes / jnp.array(STRIDES)[levels][..., None] - 0.5
    steps = (jnp.arange(size * samples) + 0.5) / (size * samples)

    def along(axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        begin, end, last = edges[..., 1 - axis], edges[..., 3 - axis], shapes[levels][..., axis] - 1
        place = jnp.clip(begin[..., None] + (end - begin)[..., None] * steps, 0, last[..., None])
        low = jnp.floor(place).astype(jnp.int32)
        return low, jnp.minimum(low + 1, last[..., None]), place - low

    total = 0.0
    (top, bottom, down), (left, right, across) = along(0), along(1)
    for row, v in ((top, 1 - down), (bottom, down)):
        for column, u in ((left, 1 - across), (right, across)):
            index = starts[levels][..., None, None] + row[..., :, None] * shapes[levels][..., 1, None, None]
            index = index + column[..., None, :]
            values = jax.vmap(lambda x, i: x[i])(cells, index)
            total += values * (v[..., :, None] * u[..., None, :])[..., None]
    batch, count = levels.shape
    return total.reshape(batch, count, size, samples, size, samples, -1).mean(axis=(3, 5))


def torchvisions(maps: list[np.ndarray], boxes: np.ndarray, size: int, samples: int, cotangent: np.ndarray) -> dict:
    """Returns functions that compute torchvision's averages, and its averages and gradients, on the CPU."""
    import torch
    import torchvision.ops

    given = [torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).contiguous().requires_grad_() for x in maps]
    chosen = np.asarray(assign_levels(boxes[0], len(maps)))
    rois = torch.from_numpy(np.pad(boxes[0], ((0, 0), (1, 0))))
    upper = torch.from_numpy(np.array(cotangent[0])).permute(0, 3, 1, 2).contiguous()

    def forward() -> torch.Tensor:
        out = torch.zeros(len(rois), given[0].shape[1], size, size)
        for level, stride in enumerate(STRIDES):
            here = np.flatnonzero(chosen == level)
            out[here] = torchvision.ops.roi_align(given[level], rois[here], size, 1 / stride, samples, True)
        return out

    def without_gradients() -> torch.Tensor:
        with torch.no_grad():
            return forward()

    return {"forward": without_gradients, "forward and backward": lambda: torch.autograd.grad(forward(), given, upper)}


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--boxes", type=positive, default=512, help="boxes in the image (default: 512)")
    parser.add_argument("--channels", type=positive, default=256, help="channels of the maps (default: 256)")
    parser.add_argument("--size", type=positive, default=7, help="bins along each axis (default: 7)")
    parser.add_argument("--samples", type=int, default=0, help="samples per bin; 0: one per cell (the default)")
    parser.add_argument("--only", help="implementations to measure, separated by commas")
    parser.add_argument("--rounds", type=positive, default=3, help="measurements of each implementation (default: 3)")
    given = parser.parse_args(arguments)
    if given.samples < 0:
        raise UserError(f"--samples {given.samples}: expected 0 or more")
    rng = np.random.default_rng(0)
    shapes = [(1, -(-HEIGHT // s), -(-WIDTH // s), given.channels) for s in STRIDES]
    maps = [jnp.asarray(rng.normal(0, 1, shape), jnp.float32) for shape in shapes]
    boxes = regions(given.boxes)
    cotangent = jnp.asarray(rng.normal(0, 1, (1, given.boxes, given.size, given.size, given.channels)), jnp.float32)
    functions = {
        name: partial(roi_align, strides=STRIDES, size=given.size, samples=given.samples, implementation=name)
        for name in IMPLEMENTATIONS
    }
    if given.samples:
        functions["gather"] = partial(gather, size=given.size, samples=given.samples)
    names = given.only.split(",") if given.only else [*functions, "torchvision"]
    results = {}
    for what in ("forward", "forward and backward"):
        calls = {}
        for name in names:
            if name in functions:
                compute = jax.jit(
                    functions[name]
                    if what == "forward"
                    else lambda maps, boxes, f=functions[name]: [
                        (v := jax.vjp(lambda x: f(x, boxes), maps))[0],
                        v[1](cotangent),
                    ]
                )
                calls[name] = lambda compute=compute: jax.block_until_ready(compute(maps, boxes))
        if "torchvision" in names and installed("torchvision"):
            calls["torchvision"] = torchvisions(maps, boxes, given.size, given.samples, cotangent)[what]
        results[what] = in_turns(calls, given.rounds)
        text = ", ".join(f"{name} {taken:.1f}" for name, taken in results[what].items())
        print(f"{jax.default_backend()}, {given.boxes} boxes, {what}; ms: {text}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
