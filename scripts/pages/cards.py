"""An mkdocs hook that generates a model card for every registered variant, and their list in docs/models.md.

Results published by the authors come from published.toml, errors and estimates from the tables of docs/parity.md and
docs/scale.md, everything else from the registry.
"""

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = tomllib.loads((Path(__file__).parent / "published.toml").read_text())
LIST, NAV = "models.md", "Models"
MARK = "*On GitHub, call `list_models()`. The site that `make docs` builds lists the variants and their cards here.*"
_SIZES = {"tiny": "T", "small": "S", "base": "B", "large": "L", "xlarge": "XL", "huge": "H"}
_ORIGINALS = {"srf": "small receptive field", "lrf": "large receptive field", "iso": "isotropic, one stage as a ViT's"}
# Measurements of single variants, as in docs/status.md.
_MEASURED = {
    "focalnet_tiny_lrf": "speed on a CPU, compared with timm ([performance](../performance.md))",
    "focalnet_base_srf": "speed on a CPU, compared with timm ([performance](../performance.md))",
    "focalnet_base_lrf": "speed on an H100, compared with timm ([performance](../performance.md))",
}
# Differences between code bases for a variant; the complete table is in docs/parity.md.
_DISAGREE = {
    "focalnet_base_iso": "The original's last configuration of this variant sets `use_postln`, which once meant "
    "LayerNorm inside the modulation. The released file and this model have LayerNorm there.",
    "focalnet_large_fl4": "`normalize_modulator` is on as in the original. It is off in timm's model of this name, so "
    "files written by timm need `--option normalize_modulator=false`.",
    "focalnet_huge_fl3": "Some copies of the original have windows of 5. Here the window is 3 as in the original; when "
    "weights are loaded, it is read from the shapes of their kernels.",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Returns the config with the cards added to the navigation."""
    from focalnet_jax import list_models

    entry = next(entry for entry in config.nav if NAV in entry)
    cards = [{name.removeprefix("focalnet_"): f"models/{name}.md"} for name in list_models()]
    entry[NAV] = [*entry[NAV], {"Cards": cards}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns `files` with the pages of the cards added."""
    from focalnet_jax import list_models

    for name in list_models():
        files.append(File.generated(config, f"models/{name}.md", content="\n".join(card(name))))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Returns the page; docs/models.md with the list of all variants inserted."""
    return markdown.replace(MARK, "\n".join(_list())) if page.file.src_uri == LIST else markdown


def _list() -> Iterator[str]:
    from focalnet_jax import list_models

    yield "| model | parameters | GMACs at 224 px | published top-1, ImageNet-1K at 224 px | obtained here |"
    yield "|---|---|---|---|---|"
    for name in list_models():
        costs, top1 = _costs(name, 224), PUBLISHED[name].get("top1")
        numbers = f"{costs.params / 1e6:.1f} M | {costs.macs / 1e9:.1f} | {f'{top1} %' if top1 else 'none'}"
        yield f"| [`{name}`](models/{name}.md) | {numbers} | not run |"


def card(name: str) -> Iterator[str]:
    """Yields the sections of a variant's card in Markdown."""
    from focalnet_jax.model import variant_config

    config, published, costs = variant_config(name), PUBLISHED[name], _costs(name, 224)
    yield f"# {name}\n\n{_sentence(name, config)}\n"
    yield "| | |\n|---|---|"
    for row in (*_architecture(config), *_figures(name, config, published)):
        yield "| {} | {} |".format(*row)
    yield f"\nBy part, for an image of 224 px (`focalnet_jax.summarize('{name}')`):\n\n```text\n{costs}\n```\n"
    yield from _use(name, published)
    yield from _verified(name)
    yield from _limits(name, config)


def _sentence(name: str, config: Any) -> str:
    _, size, kind = name.split("_")
    described = _ORIGINALS.get(kind, f"{config.levels[0]} focal levels")
    data = "ImageNet-1K" if "top1" in PUBLISHED[name] else "ImageNet-22K"
    return (
        f"FocalNet-{_SIZES[size]}, {described}: an image classifier and a backbone for other tasks, without attention "
        f"([Focal Modulation Networks](https://arxiv.org/abs/2203.11926)). The authors released weights trained on "
        f"{data}; this package contains none."
    )


@cache
def _costs(name: str, size: int) -> Any:
    from focalnet_jax import summarize

    return summarize(name, size)


def _architecture(config: Any) -> Iterator[tuple[str, str]]:
    kernels = [", ".join(map(str, config.kernel_sizes(stage))) for stage in range(len(config.depths))]
    norms = "after modulation and MLP" if config.use_postln else "before modulation and MLP"
    norms += ", and inside the modulation" if config.use_postln_in_modulation else ""
    overlapped = "overlapped convolutions, 7x7 then 3x3"
    yield "depths", "-".join(map(str, config.depths))
    yield "channels", "-".join(map(str, config.dims))
    yield "focal levels", f"{config.levels[0]} and the global level"
    yield "kernels of the levels", kernels[0] if len(set(kernels)) == 1 else "; ".join(kernels)
    yield "embedding", overlapped if config.use_conv_embed else f"patches of {config.patch_size}"
    yield "LayerNorm", norms
    yield "LayerScale", f"{config.layerscale_value:g}" if config.use_layerscale else "none"
    yield "modulator divided by L + 1", "yes" if config.normalize_modulator else "no"
    yield "stochastic depth", f"up to {config.drop_path_rate:g} in training"


def _figures(name: str, config: Any, published: dict[str, Any]) -> Iterator[tuple[str, str]]:
    costs, outputs = _costs(name, 224), published["outputs"]
    params = f"{costs.params:,} with {config.num_classes} classes"
    if outputs not in (0, config.num_classes):
        more = costs.params + (outputs - config.num_classes) * (config.dims[-1] + 1)  # weights and bias per output
        params += f", {more:,} with {outputs}"
    yield "parameters", params
    sizes = sorted({224, published["pixels"]})
    yield "GMACs", ", ".join(f"{_costs(name, size).macs / 1e9:.2f} at {size} px" for size in sizes)
    classifier = f"{outputs} outputs" if outputs else "no classifier"
    yield "released weights", f"images of {published['pixels']} px, {classifier}"
    yield "their licence", published["licence"]
    top1, speed = published.get("top1"), published.get("v100")
    yield "published top-1", f"{top1} % on ImageNet-1K at 224 px (the authors' README)" if top1 else "none"
    yield "published speed", f"{speed} images/s on a V100, float32, batch 128 (their README)" if speed else "none"
    yield "obtained here", "nothing yet: neither trained, nor the released weights evaluated"


def _use(name: str, published: dict[str, Any]) -> Iterator[str]:
    from focalnet_jax.model.released import RELEASED

    short = name.removeprefix("focalnet_")
    recipe, data = ("imagenet1k", "IMAGENET") if "top1" in published else ("imagenet22k", "PREPARED")
    on_the_hub = any(each.variant == name for each in RELEASED)
    released = (
        f'\nmodel = focalnet_jax.create_model("{name}", pretrained=True)  # released weights' if on_the_hub else ""
    )
    yield f"""## Use it

```python
import focalnet_jax

model = focalnet_jax.create_model("{name}", num_classes=10)  # randomly initialised{released}
model = focalnet_jax.load_model("weights.safetensors")  # or .pth, a Hugging Face directory, a workdir
```

In the commands below, WEIGHTS is one of these files or directories. Its format and model are recognised
([weights](../weights.md)).
"""
    if published["outputs"]:
        yield _command("Evaluate the released weights on ImageNet-1K", *_eval(short, published))
    yield _command(
        "Finetune them on your own classes ([getting started](../getting-started.md#finetune-pretrained-weights))",
        "python train.py --config configs/own_folder.py --workdir runs/own --config.init_from=WEIGHTS",
        "--config.data.path=images",
    )
    yield _command(
        f"Train from scratch, with the [recipe](../recipes.md#configs{recipe}py)",
        f"python train.py --config configs/{recipe}.py:{short} --workdir runs/{short} --config.data.path={data}",
    )


def _eval(short: str, published: dict[str, Any]) -> Iterator[str]:
    yield f"python eval.py --config configs/imagenet1k.py:{short} --checkpoint WEIGHTS --config.data.path=IMAGENET"
    if published["outputs"] != 1000:
        yield (
            f"--config.model.num_classes={published['outputs']} --config.eval_classes=1000 "
            f"--config.data.image_size={published['pixels']}"
        )


def _command(title: str, *lines: str) -> str:
    text = " \\\n    ".join(lines)
    return f"{title}:\n\n```\n{text}\n```\n"


def _verified(name: str) -> Iterator[str]:
    short = name.removeprefix("focalnet_")
    yield "## What has been verified here\n"
    yield (
        "- The number of parameters equals the one that the authors and timm publish; GMACs agree within 1 % "
        "(`tests/model/test_variants.py`)."
    )
    yield "- Random weights are bitwise equal after a round trip through every format (`benchmarks/conversion.py`)."
    if name in _MEASURED:
        yield f"- Measured: {_MEASURED[name]}."
    yield "- Relative errors against PyTorch, with random weights ([parity](../parity.md)):\n"
    yield from _rows(ROOT / "docs" / "parity.md", short, "weights")
    estimates = list(_rows(ROOT / "docs" / "scale.md", short, "model"))
    if len(estimates) > 2:
        page = "[many devices](../scale.md#check-memory-and-step-time-without-the-hardware-ahead-of-time-compilation)"
        yield f"\nThe compiler's estimate, not a measurement ({page}):\n"
        yield from estimates
    yield "\nNot verified yet: accuracy of the released weights, training on ImageNet ([status](../status.md)).\n"


def _rows(page: Path, short: str, heading: str) -> Iterator[str]:
    """Yields the head and the rows of variant `short` from the table in `page` whose first column is `heading`."""
    lines = page.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    for number, line in enumerate(lines[begin:]):
        if not line.startswith("|"):
            return
        if number < 2 or short in line.split("|")[1].replace(",", " ").split():
            yield line


def _limits(name: str, config: Any) -> Iterator[str]:
    smallest = 3 if config.use_conv_embed else config.patch_size * 2 ** (len(config.depths) - 1)
    yield "## Limits\n"
    yield f"- The smallest image is {smallest}x{smallest}. Sizes that are not multiples of a stride are rounded down."
    yield "- Images are normalized with ImageNet's mean and standard deviation, channels last."
    yield "- The released weights were trained only on images and classes of ImageNet."
    if name in _DISAGREE:
        yield f"- {_DISAGREE[name]}"
