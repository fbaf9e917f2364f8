"""The card of a prepared data set: its classes, numbers of examples, fingerprint and checksums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from focalnet_jax.errors import UserError

CARD = "card.json"  # file with a description of the data, which `data.prepare` writes next to the shards
DESCRIPTION = "dataset_info.json"  # file with TFDS's description


def read_card(path: Path, **needed: type) -> dict[str, Any]:
    """Returns the contents of the card of a prepared data set.

    Args:
      path: the file.
      needed: keys that the card must have, each with the type of its value.

    Raises:
      UserError: the card is missing or damaged, or lacks a needed key.
    """
    try:
        card = json.loads(path.read_text())
        if all(isinstance(card[key], kind) for key, kind in needed.items()) and isinstance(
            card.get("classes", {}), dict
        ):
            return card
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise UserError(f"{path} is damaged: copy it again, or remove it and prepare the data again")
