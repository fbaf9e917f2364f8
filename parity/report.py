"""Measures the errors that `make parity` limits, and writes the tables: python -m parity.report docs/parity.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from focalnet_jax.model import variant_config
from parity import training, upernet_errors
from parity.measure import FULL, Errors, bfloat16_errors, compare, distinct_flags, sizes
from parity.pytorch import FORMATS, can_build
from parity.training import Apart

BEGIN, END = "<!-- measured: make parity-table -->\n", "<!-- end of what was measured -->\n"
RECIPES = {
    "imagenet1k.py:tiny_lrf": ("tiny_lrf",),
    "the same, 4 micro-batches": ("tiny_lrf", "--config.accumulate_steps=4"),
    "imagenet1k.py:large_fl4": ("large_fl4",),
    "imagenet1k.py:tiny_srf,as_released": ("tiny_srf,as_released",),
}


def main(path: Path) -> None:
    """Replaces the text between the marks BEGIN and END in the file at `path`."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"error: {path} lacks the lines {BEGIN.strip()} and {END.strip()}")
    lines = []
    for line in _lines():
        print(line, flush=True)
        lines.append(line)
    path.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


def _lines() -> Iterator[str]:
    packages = ("jax", "flax", "torch", "timm", "transformers", "mmsegmentation")
    yield f"With {', '.join(f'{name} {version(name)}' for name in packages)}, on a CPU.\n"
    yield "| weights | against | input | logits | features | gradients | bfloat16, ours / autocast |"
    yield "|---|---|---|---|---|---|---|"
    for config, names in distinct_flags().items():
        for library in FORMATS:
            if not can_build(config, library):
                continue
            wanted = sizes(library, config)
            found = [compare(config, library, size, gradients=size == (224, 224)) for size in wanted]
            ours, theirs = bfloat16_errors(config, library)
            inputs = ", ".join(str(h) if h == w else f"{h}x{w}" for h, w in wanted)
            yield _row(f"{', '.join(names)}, small", library, inputs, _worst(found), f"{ours:.1e} / {theirs:.1e}")
    for name in FULL:
        for library in FORMATS:
            errors = compare(variant_config(name), library, (224, 224), gradients=True)
            yield _row(f"{name.removeprefix('focalnet_')}, full size", library, "224", errors, "")
    yield "\n| 50 steps of | worst loss, relative | worst learning rate, absolute | worst weights, relative |"
    yield "|---|---|---|---|"
    for title, (variant, *overrides) in RECIPES.items():
        config = training.recipe(variant, *overrides)
        initial = training.start(config)
        apart = Apart.between(training.ours(config, initial), training.theirs(config, initial))
        yield f"| {title} | {apart.loss:.1e} | {apart.rate:.1e} | {apart.weights:.1e} |"
    yield "\n| UPerNet against mmsegmentation | model, image | error |"
    yield "|---|---|---|"
    yield from upernet_errors.rows()


def _worst(errors: list[Errors]) -> Errors:
    return Errors(
        max(one.logits for one in errors),
        max(one.features for one in errors),
        max(one.gradients for one in errors if one.gradients is not None),
    )


def _row(weights: str, library: str, inputs: str, errors: Errors, bfloat16: str) -> str:
    numbers = f"{errors.logits:.1e} | {errors.features:.1e} | {errors.gradients:.1e}"
    return f"| {weights} | {library} | {inputs} | {numbers} | {bfloat16} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, help="the file to write the tables to")
    main(parser.parse_args().document)
