"""Opens the examples of every evaluation of a config."""

from __future__ import annotations

import re

from ml_collections import FrozenConfigDict

from focalnet_jax.data.held_out import open_split
from focalnet_jax.data.slices import EvenlySpaced
from focalnet_jax.data.source import Source
from focalnet_jax.data.sources import SourceOptions, open_source
from focalnet_jax.errors import UserError
from focalnet_jax.settings import MAIN


def open_evaluations(config: FrozenConfigDict) -> dict[str, Source]:
    """Returns the examples of each evaluation by name: "eval" for `data.eval_split`, and those of `config.evaluations`.

    Raises:
      UserError: examples cannot be opened. If they are those of `config.evaluations`, the message names the evaluation.
    """
    opened = {MAIN: open_split(config.data, config.data.eval_split)}
    for name in config.evaluations:
        try:
            opened[name] = _open(config, name)
        except UserError as error:
            message = _in_own_keys(config, name, str(error))
            named = message.startswith("evaluations.")
            raise UserError(message if named else f"evaluations.{name}: {message}") from error
    return opened


def _in_own_keys(config: FrozenConfigDict, name: str, text: str) -> str:
    """Replaces `data.path` and `data.source` in a message by the keys of the evaluation, if it sets them."""
    own = [key for key in ("source", "path") if config.evaluations[name][key] is not None]
    if not own:
        return text
    text = text.replace("--config.data.", f"--config.evaluations.{name}.")
    return re.sub(rf"(?<![\w./])data\.({'|'.join(own)})\b", rf"evaluations.{name}.\1", text)


def _open(config: FrozenConfigDict, name: str) -> Source:
    settings = config.evaluations[name]
    split = settings.split or config.data.eval_split
    if settings.source is None and settings.path is None:
        source = open_split(config.data, split)
    else:
        path = config.data.path if settings.path is None else settings.path
        source = open_source(settings.source or config.data.source, path, split, SourceOptions.of(config.data))
    return source if settings.examples is None else EvenlySpaced(source, settings.examples)
