"""Compiles the recipes for hardware that is not available: python -m benchmarks.aot FILE.jsonl.

Runs `python -m focalnet_jax.aot` for each of ROWS, which takes some minutes per row on two CPU cores, and appends the
result to the file. Rows that the file already contains are not run again. Then writes the table between the marks in
docs/scale.md. Needs the compiler for TPUs: pip install 'focalnet_jax[tpu]'.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/aot.py

from benchmarks.flags import make_parser
from focalnet_jax.data.preprocessing import in_words
from focalnet_jax.programs.run_command import run_command

DOCUMENT = Path("docs/scale.md")
BEGIN, END = "<!-- python -m benchmarks.aot writes from here -->\n", "<!-- to here -->"


def row(recipe: str, topology: str, batch: int, fsdp: int = 1, **others: Any) -> list[str]:
    """Returns the arguments of one compilation; `others` are further keys of the config."""
    settings = (("batch_size", batch), ("mesh.fsdp", fsdp), *others.items())
    overrides = [f"--config.{key}={value}" for key, value in settings]
    return ["--config", f"configs/{recipe}", "--topology", topology, *overrides]


_HEADS = {"upernet": "UPerNet", "mask_rcnn": "Mask R-CNN"}
_DENSE = {"precision": "auto", "model.scan_blocks": True}

ROWS = [
    row("imagenet22k.py:large_fl3", "v5e:8x8", 2048, fsdp=16),
    row("imagenet22k.py:large_fl4", "v5e:4x4", 512, fsdp=16),
    row("imagenet22k.py:large_fl4", "v5e:8x8", 2048, fsdp=16),
    row("imagenet22k.py:large_fl4", "v5e:16x16", 8192, fsdp=16),
    row("imagenet22k.py:xlarge_fl3", "v5e:8x8", 1024, fsdp=64),
    row("imagenet22k.py:xlarge_fl4", "v5e:8x8", 1024, fsdp=64),
    row("imagenet22k.py:huge_fl3", "v5e:8x8", 1024, fsdp=64),
    row("imagenet22k.py:huge_fl4", "v5e:8x8", 1024, fsdp=64),
    row("finetune_imagenet1k.py:large_fl4,384", "v5e:4x4", 256, fsdp=16),
    row("imagenet1k.py:base_lrf", "v5e:1x1", 128),
    row("imagenet22k.py:large_fl4", "h100:8", 512),
    row("upernet_ade20k.py:base_lrf", "v5e:1x1", 2, **_DENSE),
    row("upernet_ade20k.py:base_lrf", "h100:1", 2, **_DENSE),
    row("mask_rcnn_coco.py:base_lrf", "h100:8", 16),
]


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """Returns the fields by which rows are sorted."""
    return tuple(result[name] for name in ("model", "num_classes", "image_size", "topology", "global_batch"))


def line(result: dict[str, Any]) -> str:
    """Returns one row of the table."""
    sent = sum((result["collective_bytes_per_device"] or {}).values()) / 1e6
    seconds, mfu = result["estimated_step_seconds"], result["estimated_mfu"]
    memory = result["hbm_bytes_per_device"]
    fits = "yes" if result["fits"] else "no"
    model = result["model"].removeprefix("focalnet_")
    for recipe, head in _HEADS.items():
        if recipe in result["arguments"][1]:
            model += f" with {head}"
    cells = [
        f"{model}, {result['num_classes']} classes, {in_words(result['image_size'])} px",
        result["topology"],
        f"{result['mesh']['data']} x {result['mesh']['fsdp']}",
        f"{result['batch_per_device']}, {result['remat']}",
        f"{fits}, {memory / 2**30:.1f} GiB" if memory else fits,
        f"{seconds:.3f} s" if seconds else "",
        f"{mfu:.1%}" if mfu else "",
        f"{result['images_per_second_per_device']:.0f}" if seconds else "",
        f"{sent:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("results", type=Path, metavar="FILE.jsonl")
    results = parser.parse_args(arguments).results
    done = [json.loads(text) for text in results.read_text().splitlines()] if results.exists() else []
    for arguments in ROWS:
        if any(result["arguments"] == arguments for result in done):
            continue
        print(" ".join(arguments), flush=True)
        command = [sys.executable, "-m", "focalnet_jax.aot", *arguments]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        done.append({"arguments": arguments, **json.loads(printed.splitlines()[-1])})
        with results.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    head = (
        "| model | topology | data x fsdp | images per chip, remat | fits | step | MFU | images/s per chip "
        "| sent per device and step |"
    )
    table = "\n".join([head, "|" + "---|" * (head.count("|") - 1), *map(line, sorted(done, key=key))])
    text = DOCUMENT.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    DOCUMENT.write_text(f"{text[:begin]}\n{table}\n\n{text[end:]}")
    print(table)


if __name__ == "__main__":
    run_command(main)
