"""Times the implementations of the depthwise convolution on this machine: python benchmarks/depthwise.py.

Prints, for each shape of FocalNet-T LRF, the milliseconds of XLA's grouped convolution and of the CPU implementation,
for the forward pass alone and with both gradients, and their ratio. The last line is one JSON object with the geometric
means of the ratios.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/depthwise.py

from benchmarks.aggregation import milliseconds, with_gradients
from benchmarks.flags import make_parser
from focalnet_jax.ops.depthwise import depthwise_conv, depthwise_conv_reference
from focalnet_jax.programs.run_command import run_command

BATCH = 8
SHAPES = [(size, channels, k) for size, channels in ((56, 96), (28, 192), (14, 384), (7, 768)) for k in (3, 5, 7)]


def main(arguments: list[str]) -> None:
    make_parser(__doc__).parse_args(arguments)
    print(f"{jax.default_backend()}, batch {BATCH}, float32; grouped ms, ours ms, ratio")
    print(f"{'map':>10}{'kernel':>8}{'forward':>26}{'forward and gradients':>28}")
    ratios = {"forward_ratio": [], "train_ratio": []}
    for size, channels, k in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (BATCH, size, size, channels))
        kernel = jax.random.normal(keys[1], (k, k, 1, channels))
        cotangent = jax.random.normal(keys[2], x.shape)
        row = f"{size}x{channels:<4}".rjust(10) + f"{k}x{k}".rjust(8)
        for name, wrap, arguments in (
            ("forward_ratio", lambda conv: conv, (x, kernel)),
            ("train_ratio", lambda conv: partial(with_gradients, conv), ((x, kernel), cotangent)),
        ):
            implementations = map(jax.jit, map(wrap, (depthwise_conv_reference, depthwise_conv)))
            grouped, ours = (milliseconds(implementation, *arguments, calls=1) for implementation in implementations)
            ratios[name].append(grouped / ours)
            row += f"{grouped:>12.1f}{ours:>7.1f}{grouped / ours:>7.1f}"
        print(row, flush=True)
    print(json.dumps({name: math.exp(sum(map(math.log, values)) / len(values)) for name, values in ratios.items()}))


if __name__ == "__main__":
    run_command(main)
