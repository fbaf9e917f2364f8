"""Builds the web page, with an upload field for an image, its prediction, its activations and its maps."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from focalnet_jax.convert.recognise import released_name
from focalnet_jax.data.drawing import encode_png
from focalnet_jax.demo.panels import Explanation, Panel, block_panels, explain, prediction_panels
from focalnet_jax.errors import RunFailedError, UserError
from focalnet_jax.inference import read_picture
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.tasks.predictor import Predictor
from focalnet_jax.visualize.figures import coloured

KEPT = 3600  # seconds for which a visitor's image and maps are kept
STYLE = """
.panels {display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 14px}
.panels figure {margin: 0; max-width: 260px}
.panels figure.wide {max-width: 800px; grid-column: 1 / -1}
.panels img {width: 100%; display: block; border-radius: 4px}
.panels figcaption {font-size: 13px; line-height: 1.35; margin-top: 5px}
.panels .scale {display: flex; gap: 6px; align-items: center; font-variant-numeric: tabular-nums; margin-top: 3px}
.panels .scale img {flex: 1; min-width: 0; height: 8px}
#message:not(:has(p)) {display: none}
.problem {border-left: 4px solid #c0392b; padding: 8px 12px; overflow-wrap: anywhere}
.nothing {padding: 60px 12px; text-align: center; opacity: 0.7}
"""
_NOTHING = "<p class=nothing>Drop an image on the left to see the prediction and the maps behind it.</p>"
_ACTIVATIONS = """<h3>Class activation</h3>
<p>Bright positions contribute most to a class's score, which is the mean over all positions plus a constant.</p>"""
_MODULATION = """### Inside a block
A block multiplies the query at each position by a **modulator**, which it gathers from the surrounding context at
several focal levels."""
_ADDITION = """### Inside a block
A block adds the **context**, which it gathers from the surroundings at several focal levels, to the query at each
position."""
_GATES = "The **gates** weight the context of each level: red adds it, blue subtracts it, grey leaves it out."


def build(predictor: Predictor, source: str, topk: int) -> gr.Blocks:
    """Builds the page of a model. Its events `/show`, `/stage` and `/block` can also be called as an API.

    Args:
      predictor: a model with a head.
      source: name or path of the weights, which the page shows.
      topk: number of classes shown.
    """
    config = predictor.backbone.config
    depths = config.depths

    def maps(seen: Explanation | None, stage: int, block: int) -> str:
        return "" if seen is None else panels_html(block_panels(seen, config, stage - 1, block - 1))

    def show(file: str, stage: int, block: int) -> tuple[Any, ...]:
        empty = None  # clears the upload field for the next image
        try:
            seen = explain(predictor, read_picture(Path(file), Path(file).name), topk)
        except (UserError, RunFailedError) as error:
            problem = f"<p class=problem>{html.escape(str(error))}</p>"
            return empty, None, problem, gr.Column(visible=False), "", "", None
        about = (_ACTIVATIONS if seen.activations else "") + panels_html(prediction_panels(seen))
        scores = seen.prediction.scores() or None
        return empty, scores, "", gr.Column(visible=True), about, maps(seen, stage, block), seen

    def choose_stage(seen: Explanation | None, stage: int) -> tuple[Any, str]:
        depth = depths[stage - 1]
        return gr.Dropdown(choices=_blocks(depth), value=depth), maps(seen, stage, depth)

    with gr.Blocks(title="FocalNet", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# FocalNet\n{_describe(predictor, source)}")
        seen = gr.State(time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Drop an image", type="filepath", height=150)
                prediction = gr.Label(label="Prediction", num_top_classes=topk)
            with gr.Column(scale=3):
                message = gr.HTML(_NOTHING, elem_id="message")
                with gr.Column(visible=False) as shown:
                    classes = gr.HTML(elem_id="classes")
                    gr.Markdown(_map_help(config))
                    with gr.Row():
                        numbers = range(1, len(depths) + 1)
                        stage = gr.Radio(
                            numbers, value=numbers[-1], label="Stage", info="later: fewer, larger positions"
                        )
                        block = gr.Dropdown(_blocks(depths[-1]), value=depths[-1], label="Block", info="of the stage")
                    modulation = gr.HTML(elem_id="modulation")
        outputs = [file, prediction, message, shown, classes, modulation, seen]
        # Only one image at a time, because several would slow each other down.
        file.upload(show, [file, stage, block], outputs, api_name="show", concurrency_limit=1)
        stage.input(choose_stage, [seen, stage], [block, modulation], api_name="stage")
        block.input(maps, [seen, stage, block], modulation, api_name="block")
    return page


def _map_help(config: FocalNetConfig) -> str:
    """Returns an explanation of the maps of a block, which depends on the ablations of the model."""
    return " ".join([_MODULATION if config.use_modulation else _ADDITION, *([_GATES] if config.use_gates else [])])


def panels_html(panels: Sequence[Panel]) -> str:
    """Returns panels side by side as HTML, with their images embedded."""
    return f"<div class=panels>{''.join(map(_figure, panels))}</div>"


def _figure(panel: Panel) -> str:
    name, meaning = html.escape(panel.name), html.escape(panel.meaning)
    scale = ""
    if panel.colours:
        low, high = panel.limits
        strip = coloured(np.linspace(low, high, 64)[None], (1, 64), panel.colours, panel.limits)
        scale = f"<div class=scale>{low:.3g}<img alt='' src='{_source(strip)}'>{high:.3g}</div>"
    image = f"<img class=map alt='{name}' src='{_source(panel.pixels)}'>"
    wide = " class=wide" if panel.wide else ""
    return f"<figure{wide}>{image}<figcaption><b>{name}</b><br>{meaning}{scale}</figcaption></figure>"


def _source(pixels: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def _blocks(depth: int) -> list[tuple[str, int]]:
    return [(f"{number} of {depth}", number) for number in range(1, depth + 1)]


def _describe(predictor: Predictor, source: str) -> str:
    name = released_name(predictor.backbone.config) or "a FocalNet that is not a released variant"
    how = predictor.describe_preprocessing()
    assumed = f"; the weights store no {predictor.assumed}; default: {how}" if predictor.assumed else ""
    return f"`{source}`: {name}, {predictor.description}{assumed}"
