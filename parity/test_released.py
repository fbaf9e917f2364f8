"""The table of released weights agrees with that of the installed timm, and with the variants of this package."""

import re
from pathlib import Path

import transformers.models.focalnet.configuration_focalnet as configuration
from timm.models.focalnet import default_cfgs

from focalnet_jax.model.released import _LICENSE, RELEASED


def test_names_classes_and_sizes_are_those_of_timm():
    theirs = {
        f"{variant}.{tag}": (cfg.hf_hub_id.rstrip("/"), cfg.num_classes, cfg.input_size[1], cfg.license)
        for variant, cfgs in default_cfgs.items()
        for tag, cfg in cfgs.cfgs.items()
        if cfg.hf_hub_id
    }
    assert {each.name: ("timm", each.num_classes, each.image_size, _LICENSE) for each in RELEASED} == theirs
    for each in RELEASED:  # timm completes "timm/" by the name
        assert each.address == f"hf://timm/{each.name}"


def test_the_authors_repositories_that_transformers_names_are_in_the_table():
    folder = Path(configuration.__file__).parent
    named = {
        name for file in folder.glob("*.py") for name in re.findall(r"microsoft/focalnet-[\w-]+", file.read_text())
    }
    named = {name for name in named if re.search(r"-(tiny|small|base|large|xlarge)(-lrf)?(-fl\d)?$", name)}
    assert named
    assert {f"hf://{name}" for name in named} <= {each.authors_address for each in RELEASED}
