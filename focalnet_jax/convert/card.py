"""Writes model cards for the Hugging Face Hub from the metadata of weights and of the run that trained them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from focalnet_jax.checkpoint.integrity import DamagedError, read_manifest
from focalnet_jax.checkpoint.steps import find_checkpoint, read_metadata
from focalnet_jax.config import default_config, flatten
from focalnet_jax.convert.files import is_checkpoint
from focalnet_jax.convert.timm import timm_name
from focalnet_jax.convert.weights import Weights
from focalnet_jax.hub.address import Address, is_address, parse_address
from focalnet_jax.settings import settings_of
from focalnet_jax.settings.tasks import task_of

CARD = "README.md"
_LIBRARIES = {"huggingface": "transformers", "timm": "timm", "mmseg": "mmsegmentation", "mmdet": "mmdetection"}
# The hub's types of metrics. All other metrics have the type accuracy.
_METRICS = {"miou": "mean_iou", "macc": "mean_accuracy"}
_METRICS |= dict.fromkeys(("bbox_ap", "bbox_ap50", "segm_ap", "segm_ap50"), "mean_average_precision")
_PAPER = "https://arxiv.org/abs/2203.11926"
_MEASURED = "eval/"  # prefix of evaluation metrics
_VERSION = re.compile(r"[\d.]+")  # name of the innermost folder of a prepared data set


@dataclass(frozen=True)
class _Task:
    """Text for a task in model cards."""

    hub: str  # the hub's name of the task
    load: str  # call of transformers that loads the model, with {} for the repository; empty if there is none


_TASKS = {
    "classification": _Task("image-classification", 'AutoModelForImageClassification.from_pretrained("{}")'),
    "segmentation": _Task(
        "image-segmentation", 'AutoModelForSemanticSegmentation.from_pretrained("{}", trust_remote_code=True)'
    ),
    "detection": _Task("object-detection", ""),
}


@dataclass(frozen=True)
class RunRecord:
    """The metadata in a checkpoint about the run that wrote the checkpoint."""

    step: str
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    metrics: Mapping[str, float | None]
    command: str | None


def read_record(source: str | Path) -> RunRecord | None:
    """Returns the record of the run that wrote a checkpoint, or None if `source` is not a checkpoint of a run."""
    if not is_checkpoint(source):
        return None
    step = find_checkpoint(str(source))
    metadata = read_metadata(step)
    if not metadata.get("config"):
        return None
    try:
        metrics = read_manifest(step).evaluation or {}
    except DamagedError:
        metrics = {}
    kept = (metadata.get(key) or {} for key in ("config", "data", "versions"))
    return RunRecord(step.name, *kept, metrics, metadata.get("command"))


def model_card(
    weights: Weights, address: Address, format: str, source: str, run: RunRecord | None, license: str | None
) -> str:
    """Returns the content of README.md: metadata for the hub, then the model, its use, training and results.

    Args:
      weights: the weights.
      address: the repository for the card.
      format: format of the weights in the repository, "huggingface", "timm", "mmseg" or "mmdet".
      source: the path or address from which the weights were read, as given by the user.
      run: the run that trained the weights, or None if the weights are not a checkpoint of a run.
      license: the hub's identifier of the licence, or None if the licence is unknown.
    """
    title = address.repo.partition("/")[2]
    parts = [
        _front_matter(weights, format, source, run, license, title),
        f"# {title}",
        f"{weights.what} ([Focal Modulation Networks]({_PAPER})) in the format of {_LIBRARIES[format]}, "
        "written by focalnet_jax.",
        _section("Model", _about_model(weights, license)),
        _use(weights, address, format),
    ]
    if run:
        parts += [_section("Training", _about_training(run)), _settings(run)]
        if command := run.command:
            parts.append(f"Command:\n\n```\n{command}\n```")
        parts.append(_section("Results", _about_results(run)))
    else:
        parts.append(_section("Source", _about_source(weights, source)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(
    weights: Weights, format: str, source: str, run: RunRecord | None, license: str | None, title: str
) -> str:
    """Returns the YAML metadata for the hub. Strings are written as JSON, which is valid YAML."""
    lines = [f"license: {license}"] if license else []
    lines.append(f"library_name: {_LIBRARIES[format]}")
    task = _TASKS[weights.task].hub
    lines += [f"pipeline_tag: {task}"] if weights.config.num_classes else []
    lines += ["tags:", "- focalnet", "- focalnet_jax", f"- {_LIBRARIES[format]}", f"- {task}"]
    if base := _base_model(source, run):
        lines.append(f"base_model: {json.dumps(base)}")
    if run and (found := list(_headline(run))):
        data = json.dumps(_data_name(run))
        lines += ["model-index:", f"- name: {json.dumps(title)}", "  results:", "  - task:"]
        lines += [f"      type: {task}", "    dataset:", f"      name: {data}", f"      type: {data}"]
        lines.append("    metrics:")
        for key, name, value in found:
            lines += [
                f"    - type: {_METRICS.get(key, 'accuracy')}",
                f"      name: {json.dumps(name)}",
                f"      value: {value:.4g}",
            ]
    return "\n".join(["---", *lines, "---"])


def _base_model(source: str, run: RunRecord | None) -> str | None:
    """Returns the repository of the initial or converted weights, or None if they are not from the hub."""
    start = run.config.get("init_from") if run else source
    return parse_address(start).repo if isinstance(start, str) and is_address(start) else None


def _section(title: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {key} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines]) if lines else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _about_model(weights: Weights, license: str | None) -> dict[str, str]:
    config = weights.config
    names = weights.info.words or weights.info.classes
    rows = {
        "variant": weights.name or f"not a released variant: depths {config.depths}, channels {config.dims}",
        "parameters": f"{weights.count:,}",
        "classes": str(config.num_classes) if config.num_classes else "none: pooled features",
        "class names": ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "",
        "preprocessing": weights.info.describe_preprocessing(),
        "licence": license or "not specified",
    }
    return {key: value for key, value in rows.items() if value}


def _use(weights: Weights, address: Address, format: str) -> str:
    lines = ["import focalnet_jax", "", f'model = focalnet_jax.load_model("hf://{address.repo}")']
    if format == "huggingface":
        load = _TASKS[weights.task].load.format(address.repo)
        lines += ["", f"from transformers import {load.partition('.')[0]}", "", f"model = {load}"]
    elif format in ("mmseg", "mmdet"):
        lines += ["", "from huggingface_hub import hf_hub_download", "from safetensors.torch import load_file", ""]
        lines.append(f'state_dict = load_file(hf_hub_download("{address.repo}", "model.safetensors"))')
    elif timm_name(weights.config, weights.name):
        lines += ["", "import timm", "", f'model = timm.create_model("hf_hub:{address.repo}", pretrained=True)']
    return "\n".join(["## Use", "", "```python", *lines, "```"])


def _about_training(run: RunRecord) -> dict[str, str]:
    data, versions = run.data, run.versions
    examples = data.get("examples")
    rows = {
        "data": _data_name(run),
        "images": f"{examples:,}" if isinstance(examples, int) else "",
        "fingerprint of the data": str(data.get("fingerprint") or ""),
        "step": run.step,
        "batch size": str(run.config.get("batch_size") or ""),
        "initial weights": str(run.config.get("init_from") or "none: trained from scratch"),
        "versions": ", ".join(
            f"{name} {versions[name]}" for name in ("focalnet_jax", "jax", "flax") if name in versions
        ),
    }
    return {key: value for key, value in rows.items() if value}


def _data_name(run: RunRecord) -> str:
    """Returns the source and the folder name of the training data, or "unknown". Version folders are skipped."""
    data = run.config.get("data", {})
    folders = [part for part in Path(str(data.get("path") or "")).parts if not _VERSION.fullmatch(part)]
    return ", ".join(part for part in (str(data.get("source") or ""), *folders[-1:]) if part) or "unknown"


def _settings(run: RunRecord) -> str:
    """Returns a text with the config values that differ from the defaults, except local paths; "" if there are none."""
    usual, lines = flatten(default_config(task_of(run.config))), []
    for key, value in sorted(flatten(ConfigDict(run.config)).items()):
        value = tuple(value) if isinstance(value, list) else value
        if value != usual.get(key) and not str(value).startswith(("/", "~", ".")):
            lines.append(f"{key} = {value!r}")
    return "\n".join(["Settings that differ from the defaults:", "", "```", *lines, "```"]) if lines else ""


def _headline(run: RunRecord) -> Iterator[tuple[str, str, float]]:
    """Yields (key, title, value) for each main metric that was measured."""
    for key, title in settings_of(task_of(run.config)).HEADLINE:
        value = run.metrics.get(f"{_MEASURED}{key}", run.metrics.get(key))
        if _is_measured(key, value):
            yield key, title, value


def _is_measured(key: str, value: float | None) -> bool:
    """Returns whether a metric has a value. An AP of -1 means that there are no objects, and counts as no value."""
    return value is not None and not (value == -1 and key.startswith(("bbox_", "segm_")))


def _about_results(run: RunRecord) -> dict[str, str]:
    rows = {title: f"{value:.4g} %" for _, title, value in _headline(run)}
    shown = {key for key, _, _ in _headline(run)}
    for name, value in run.metrics.items():
        key = name.removeprefix(_MEASURED)
        if key not in shown and _is_measured(key, value):
            rows[key] = f"{value:.6g}"
    data = run.config.get("data", {})
    return rows and {"evaluated on": f"{_data_name(run)}, {data.get('eval_split') or 'its evaluation split'}"} | rows


def _about_source(weights: Weights, source: str) -> dict[str, str]:
    name = source if is_address(source) else Path(source).name
    rows = {"converted from": f"{name} ({weights.format}, {weights.dtype})"}
    return rows | {f"note {number}": note for number, note in enumerate(weights.notes, 1)}
