"""Measures resident memory while reading many batches: python -m benchmarks.input_memory [--batches 100000].

Reads batches of 8 digits at 32 px with the whole augmentation and two threads. The last line is one JSON object:
resident megabytes after a tenth of the batches, at the end, and the largest value in between.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/input_memory.py

from benchmarks.flags import make_parser, positive
from focalnet_jax.data.digits_source import DigitsSource
from focalnet_jax.data.loader import ReadOptions, train_batches
from focalnet_jax.data.policies import ColourJitter, parse_policy
from focalnet_jax.data.transforms import train_transform
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.tasks.classification.host import ClassificationHost


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batches", type=positive, default=100_000)
    parser.add_argument("--workers", type=int, default=0)
    flags = parser.parse_args(arguments)
    policies = [parse_policy("rand-m9-mstd0.5-inc1"), ColourJitter(0.4)]
    host = ClassificationHost(train_transform(32, (0.08, 1.0), (3 / 4, 4 / 3), 0.5, policies), None)
    reading = ReadOptions(threads=2, workers=flags.workers)
    stream = train_batches(
        DigitsSource("train"), host, batch_size=8, seed=0, start_step=0, end_step=flags.batches, reading=reading
    )
    resident, every = [], max(1, flags.batches // 100)
    for done, _ in enumerate(stream, 1):
        if done % every == 0:
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            resident.append(round(sum(process.memory_info().rss for process in processes) / 1e6, 1))
            if len(resident) % 10 == 0:
                print(f"{done} batches: {resident[-1]} MB", flush=True)
    warm = resident[len(resident) // 10 :]
    print(json.dumps({"batches": flags.batches, "begin_mb": warm[0], "end_mb": warm[-1], "largest_mb": max(warm)}))


if __name__ == "__main__":
    run_command(main)
