"""The page: a place to drop a picture, what the model says of it, and a choice of the block whose maps are shown."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from focalnet_jax.convert.recognise import released_name
from focalnet_jax.demo.panels import Panel, Seen, block_panels, class_panels, look
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.inference import Classifier, read_picture
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.summary import summarize
from focalnet_jax.visualize.figures import coloured

KEPT = 3600  # seconds that a visitor's picture and maps are kept
STYLE = """
.panels {display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 14px}
.panels figure {margin: 0; max-width: 260px}
.panels img {width: 100%; display: block; border-radius: 4px}
.panels figcaption {font-size: 13px; line-height: 1.35; margin-top: 5px}
.panels .scale {display: flex; gap: 6px; align-items: center; font-variant-numeric: tabular-nums; margin-top: 3px}
.panels .scale img {flex: 1; min-width: 0; height: 8px}
#said:not(:has(p)) {display: none}
.problem {border-left: 4px solid #c0392b; padding: 8px 12px; overflow-wrap: anywhere}
.nothing {padding: 60px 12px; text-align: center; opacity: 0.7}
"""
_NOTHING = "<p class=nothing>Drop a picture on the left. Here you will see what the model takes it for and why.</p>"
_CLASSES = """### What speaks for the classes
Bright places add most to a class's score, which is the mean over all places plus a constant."""
_MODULATION = """### What happens inside
A block multiplies what stands at each place, its query, with a **modulator** that it gathers from the surroundings,
the context, at several focal levels."""
_ADDITION = """### What happens inside
A block adds to what stands at each place, its query, the **context** that it gathers from the surroundings at several
focal levels."""
_GATES = "The **gates** say how much of a level's context goes in: red adds it, blue subtracts it, grey leaves it out."


def build(classifier: Classifier, source: str, topk: int) -> gr.Blocks:
    """The page of a model with a classifier; `source` is what its weights are called, `topk` how many classes it names.

    Its three events are an API too: `/show`, `/stage` and `/block`.
    """
    config = classifier.model.config
    depths = config.depths

    def maps(seen: Seen | None, stage: int, block: int) -> str:
        return "" if seen is None else panels_html(block_panels(seen, config, stage - 1, block - 1))

    def show(file: str, stage: int, block: int) -> tuple[Any, ...]:
        empty = None  # the place to drop a picture, ready for the next
        try:
            seen = look(classifier, read_picture(Path(file), Path(file).name), topk)
        except (UserError, RunFailedError) as error:
            told = f"<p class=problem>{html.escape(str(error))}</p>"
            return empty, None, told, gr.Column(visible=False), "", "", None
        probabilities = {each.label: each.probability for each in seen.classes}
        classes = panels_html(class_panels(seen))
        return empty, probabilities, "", gr.Column(visible=True), classes, maps(seen, stage, block), seen

    def choose_stage(seen: Seen | None, stage: int) -> tuple[Any, str]:
        depth = depths[stage - 1]
        return gr.Dropdown(choices=_blocks(depth), value=depth), maps(seen, stage, depth)

    with gr.Blocks(title="FocalNet", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# What does FocalNet see?\n{_told(classifier, source)}")
        seen = gr.State(time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Drop a picture", type="filepath", height=150)
                prediction = gr.Label(label="Prediction", num_top_classes=topk)
            with gr.Column(scale=3):
                said = gr.HTML(_NOTHING, elem_id="said")
                with gr.Column(visible=False) as shown:
                    gr.Markdown(_CLASSES)
                    classes = gr.HTML(elem_id="classes")
                    gr.Markdown(_explained(config))
                    with gr.Row():
                        numbers = range(1, len(depths) + 1)
                        stage = gr.Radio(numbers, value=numbers[-1], label="Stage", info="later: fewer, larger places")
                        block = gr.Dropdown(_blocks(depths[-1]), value=depths[-1], label="Block", info="of the stage")
                    modulation = gr.HTML(elem_id="modulation")
        outputs = [file, prediction, said, shown, classes, modulation, seen]
        # One picture at a time: those of several visitors would only slow each other down.
        file.upload(show, [file, stage, block], outputs, api_name="show", concurrency_limit=1)
        stage.input(choose_stage, [seen, stage], [block, modulation], api_name="stage")
        block.input(maps, [seen, stage, block], modulation, api_name="block")
    return page


def _explained(config: FocalNetConfig) -> str:
    """What the maps of a block are, of an ablated model too."""
    return " ".join([_MODULATION if config.use_modulation else _ADDITION, *([_GATES] if config.use_gates else [])])


def panels_html(panels: Sequence[Panel]) -> str:
    """Panels beside each other, their pictures within the text: the page needs no other file."""
    return f"<div class=panels>{''.join(map(_figure, panels))}</div>"


def _figure(panel: Panel) -> str:
    name, meaning = html.escape(panel.name), html.escape(panel.meaning)
    scale = ""
    if panel.colours:
        low, high = panel.limits
        strip = coloured(np.linspace(low, high, 64)[None], (1, 64), panel.colours, panel.limits)
        scale = f"<div class=scale>{low:.3g}<img alt='' src='{_source(strip)}'>{high:.3g}</div>"
    picture = f"<img class=map alt='{name}' src='{_source(panel.pixels)}'>"
    return f"<figure>{picture}<figcaption><b>{name}</b><br>{meaning}{scale}</figcaption></figure>"


def _source(pixels: np.ndarray) -> str:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def _blocks(depth: int) -> list[tuple[str, int]]:
    return [(f"{number} of {depth}", number) for number in range(1, depth + 1)]


def _told(classifier: Classifier, source: str) -> str:
    config, how = classifier.model.config, classifier.preprocessing
    name = released_name(config) or "a FocalNet of its own shape"
    parameters = f"{summarize(config, how.size).params / 1e6:.3g} M parameters"
    size = "x".join(map(str, how.size[::-1]))
    told = f"; the weights state no {classifier.assumed}: {how.describe()}" if classifier.assumed else ""
    return f"`{source}`: {name}, {parameters}, {config.num_classes} classes, pictures of {size} pixels{told}"
