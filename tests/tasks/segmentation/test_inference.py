"""Images of any size are predicted at their own size, and an evaluation counts every image and pixel once."""

from dataclasses import replace
from itertools import chain

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from focalnet_jax.config import default_config
from focalnet_jax.data.loader import HostPlaces, ReadOptions, eval_batches
from focalnet_jax.data.masks import IGNORED, MaskCoding
from focalnet_jax.distributed.mesh import make_mesh, put_batch
from focalnet_jax.errors import UserError
from focalnet_jax.tasks.segmentation.augment import Augmentation
from focalnet_jax.tasks.segmentation.host import SegmentationHost
from focalnet_jax.tasks.segmentation.inference import each_strip, predict_classes, scores
from focalnet_jax.tasks.segmentation.overlap import Overlap
from focalnet_jax.tasks.segmentation.shapes import Inference, inference_of

OPTIONS = Inference(box=(64, 32), crop=(32, 32), stride=(20, 20), multiple=16)
ALONE = HostPlaces()
SHAPES = [(30, 50), (50, 30), (61, 100), (31, 50), (33, 33), (20, 64), (29, 48)]


class Images:
    """Images of different shapes whose red is 0 or 255 in large areas, and masks of the red areas."""

    size, class_names = None, ("black", "red")

    def __len__(self):
        return len(SHAPES)

    def __getitem__(self, index):
        height, width = SHAPES[index]
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2, : width // 3 + index] = 1
        mask[-2:] = IGNORED
        return np.stack([255 * (mask == 1), 0 * mask, 0 * mask], -1).astype(np.uint8), mask

    def name(self, index):
        """Returns the name of an example."""
        return str(index)


def model(images):
    """Returns logits of red at a quarter of the resolution, `[B, h, w, 2]`."""
    red = jax.image.resize(
        images[..., :1], (len(images), -(-images.shape[1] // 4), -(-images.shape[2] // 4), 1), "linear"
    )
    return jnp.concatenate([-red, red], axis=-1)


def host_of(options=OPTIONS):
    return SegmentationHost(Augmentation(), MaskCoding(2), options)


def batches(options=OPTIONS, batch_size=4, place=ALONE):
    reading, host = ReadOptions(threads=0, host=place), host_of(options)
    return eval_batches(Images(), host, batch_size=batch_size, groups=host.groups(Images()), reading=reading)


def evaluated(options, found):
    overlap = Overlap(None, 2, options)
    for batch in found:
        overlap.add(jax.jit(lambda batch: overlap.measure(model, batch))(batch))
    return overlap


@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_image_is_in_one_batch_on_any_number_of_hosts(count):
    sizes = []
    for hosts in zip(*(batches(place=HostPlaces(index, count)) for index in range(count)), strict=True):
        assert len({tuple(batch[name].shape for name in sorted(batch)) for batch in hosts}) == 1
        for batch in hosts:
            sizes += [tuple(size) for size, real in zip(batch["size"].tolist(), batch["mask"], strict=True) if real]
    assert sorted(sizes) == sorted(SHAPES)


def test_images_of_similar_size_share_a_group_and_exact_shapes_do_not():
    groups = [group.tolist() for group in host_of().groups(Images())]
    assert [0, 3, 6] in groups
    assert sorted(chain.from_iterable(groups)) == list(range(len(SHAPES)))
    exact = host_of(replace(OPTIONS, multiple=1)).groups(Images())
    assert len(exact) > len(groups)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.75)])
@pytest.mark.parametrize("multiple", [1, 16, 32])
def test_predictions_fit_on_their_canvas(scales, multiple):
    options = replace(OPTIONS, scales=scales, multiple=multiple)
    draw = np.random.default_rng(0)
    for height, width in draw.integers(1, 3000, (2000, 2)).tolist():
        canvas, *sizes = options.shape(height, width)
        assert canvas[0] >= height
        assert canvas[1] >= width
        assert all(side % multiple == 0 for size in sizes for side in size)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.5, 1.0), True)])
def test_areas_are_found_at_the_original_size(mode, scales, flip):
    options = replace(OPTIONS, mode=mode, scales=scales, flip=flip)
    result = evaluated(options, batches(options)).result()
    assert result["examples"] == len(SHAPES)
    assert result["aacc"] > 90  # the borders of the areas are blurred; predictions at another place or size would miss


def test_padding_canvas_and_groups_change_no_result():
    one, many = (evaluated(OPTIONS, batches(batch_size=size)) for size in (1, 8))
    pixels = sum((mask != IGNORED).sum() for _, mask in (Images()[index] for index in range(len(SHAPES))))
    for overlap in (one, many):
        assert sum(overlap._pixels["true"]) == pixels
    np.testing.assert_array_equal(one.class_ious(), many.class_ious())
    assert one.result()["loss"] == pytest.approx(many.result()["loss"], rel=1e-6)


def test_eight_devices_measure_what_one_measures():
    mesh = make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    sharded = (put_batch(batch, mesh) for batch in batches(batch_size=8))
    on_eight, on_one = evaluated(OPTIONS, sharded), evaluated(OPTIONS, batches(batch_size=8))
    np.testing.assert_array_equal(on_eight.class_ious(), on_one.class_ious())
    assert on_eight.result()["loss"] == pytest.approx(on_one.result()["loss"], rel=1e-6)


def test_averaged_scores_are_probabilities_and_the_mirror_image_predicts_the_mirrored_classes():
    options = replace(OPTIONS, flip=True)
    batch = {name: value[None] for name, value in host_of().eval_example(Images()[2]).items()}
    height, width = SHAPES[2]
    computed = scores(model, batch, options)
    assert computed.probabilities
    sums = each_strip(lambda scores, _: scores.sum(-1), computed, batch["classes"])
    np.testing.assert_allclose(sums, 1, atol=1e-5)  # float32
    mirrored = batch | {"image": batch["image"][:, :, ::-1]}
    left, right = (np.asarray(predict_classes(model, each, options))[0, :height, :width] for each in (batch, mirrored))
    assert (left == right[:, ::-1]).mean() > 0.999  # pixels with equal probabilities may have either class


def test_the_table_has_one_row_per_class():
    overlap = Overlap(Images(), 2, OPTIONS)
    overlap.add({"hits": [3, 0], "predicted": [3, 0], "true": [4, 0], "union_hits": [], "loss": 0.0, "examples": 1.0})
    assert overlap.table() == [
        ("class", "IoU %", "accuracy %", "pixels %"),
        ("black", "75.00", "75.00", "100.00"),
        ("red", "", "", "0.00"),
    ]


def test_windows_that_leave_out_parts_of_images_are_refused():
    config = default_config("segmentation")
    config.inference.update(mode="slide", crop=(64, 64), stride=(64, 65))
    with pytest.raises(UserError, match=r"inference.stride=\(64, 65\) is larger than inference.crop=\(64, 64\)"):
        inference_of(FrozenConfigDict(config))
    config.inference.stride = (64, 64)
    assert inference_of(FrozenConfigDict(config)).stride == (64, 64)
