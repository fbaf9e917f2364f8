"""The data determines the number of classes, and the recipe has the original's schedule and weight decay."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from flax import nnx

from focalnet_jax.data.palette import class_colours
from focalnet_jax.errors import UserError
from focalnet_jax.model.precision import get_precision
from focalnet_jax.parameters import named_leaves
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.tasks.segmentation import kind
from focalnet_jax.training.optimizer import decay_scales, make_schedule

RECIPE = "configs/upernet_ade20k.py"
NEEDED = ["--config.init_from=weights.pth", "--config.data.path=none"]


def source(classes):
    return SimpleNamespace(class_names=tuple("abcdef"[:classes]), palette=None)


def start(classes):
    return SimpleNamespace(model=SimpleNamespace(num_classes=classes), classes=None)


@pytest.mark.parametrize(
    ("begin", "data", "expected"),
    [
        (None, source(3), {"model.num_classes": 3, "init_head": "keep"}),
        (start(1000), source(3), {"model.num_classes": 3, "init_head": "drop"}),
        (start(7), None, {"model.num_classes": 7}),
        (None, None, {}),
    ],
)
def test_the_data_or_else_the_weights_choose_the_number_of_classes(begin, data, expected):
    config = load_config(f"{RECIPE}:smoke", ["--config.model.num_classes=auto", "--config.init_head=auto"])
    assert kind.choose(config, begin, data) == expected
    stated = load_config(f"{RECIPE}:smoke", ["--config.model.num_classes=9"])
    assert kind.choose(stated, begin, data) == {}


def test_more_classes_in_the_data_than_in_the_model_are_refused():
    config = load_config(f"{RECIPE}:smoke", ["--config.model.num_classes=4"])
    with pytest.raises(UserError, match="11 classes"):
        kind.make_task(config)


def test_colours_are_the_palette_of_the_data_or_distinct():
    palette = np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(class_colours(3, palette), palette)
    more = class_colours(4, palette)
    np.testing.assert_array_equal(more[:3], palette)
    np.testing.assert_array_equal(more[3], class_colours(4)[3])
    np.testing.assert_array_equal(class_colours(2, palette), class_colours(2))
    many = class_colours(254)
    assert (many.dtype, many.shape) == (np.uint8, (254, 3))
    assert len(np.unique(many[:150], axis=0)) == 150
    apart = np.abs(np.diff(many.astype(int), axis=0)).sum(1)
    assert apart.min() > 60  # of 765: classes with neighbouring numbers are easy to tell apart


def rate(step, base=6e-5, total=160_000, warmup=1500, ratio=1e-6):
    """Returns mmcv 1.x's rate: its poly hook with power 1 and min_lr 0, and its linear warm-up."""
    regular = base * (1 - step / total)
    return regular * (1 - (1 - step / warmup) * (1 - ratio)) if step < warmup else regular


def test_the_recipe_has_the_originals_schedule():
    config = load_config(RECIPE, NEEDED)
    schedule = make_schedule(config.schedule, config.schedule.warmup_steps, config.total_steps)
    for step in (0, 1, 2, 749, 1499, 1500, 1501, 80_000, 159_999):
        # float32: 1 - step / total has an error of 6e-8, which is relatively larger near the end.
        assert float(schedule(step)) == pytest.approx(rate(step), rel=1e-5 if step < 159_999 else 2e-2), step
    assert float(schedule(1500)) == pytest.approx(5.944e-5, rel=1e-4)
    assert float(schedule(160_000)) == 0


@pytest.mark.parametrize("options", [{}, {"use_conv_embed": True, "use_postln": True, "use_layerscale": True}])
def test_the_recipe_decays_all_but_the_norms_of_the_backbone(options):
    flags = [f"--config.model.{name}={value}" for name, value in options.items()]
    config = load_config(f"{RECIPE}:smoke", flags)
    task = kind.make_task(config, evaluated=False)
    model = nnx.eval_shape(lambda: task.build_model(get_precision("float32"), nnx.Rngs(0), "cpu"))
    scales = named_leaves(decay_scales(config.optimizer, nnx.to_pure_dict(nnx.state(model, nnx.Param))))
    free = {name for name, scale in scales.items() if scale == 0}
    assert set(scales.values()) == {0.0, 1.0}
    assert free == {name for name in scales if name.startswith("backbone/") and re.search("norm", name)}
    assert {"decode_head/conv_seg/bias", "decode_head/bottleneck/bn/scale", "auxiliary_head/convs/0/bn/bias"} <= {
        *scales
    } - free
