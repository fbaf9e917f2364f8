"""The maps in TensorBoard are those that the model computes for the validation images, on any mesh."""

import io
import struct

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from focalnet_jax.data.normalization import normalize
from focalnet_jax.errors import UserError
from focalnet_jax.programs.config_files import load_config
from focalnet_jax.settings import MAIN
from focalnet_jax.training.data import open_eval_data
from focalnet_jax.training.maps import MapsLog, check_maps
from focalnet_jax.training.state import init_state
from focalnet_jax.visualize import modulation_maps
from focalnet_jax.visualize.figures import BlockMaps
from focalnet_jax.visualize.sheets import map_sheets
from tests.commands import SMALL, run
from tests.distributed.meshes import spec_on


def records(content):
    """Yields the records of an events file: length, checksum, event, checksum."""
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + length]
        content = content[16 + length :]


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=["one device", "eight devices"])
def test_a_sheet_shows_the_maps_of_the_last_block_of_every_stage(mesh):
    config, spec, init = spec_on(mesh)
    variables = init_state(spec, init).result
    maps = MapsLog(spec, 3)
    assert maps.draw(variables) == {}
    batches = list(maps.watch(open_eval_data(config, spec.mesh, spec.task)[MAIN].batches()))
    drawn = maps.draw(variables)
    assert list(drawn) == ["maps/picture_1", "maps/picture_2", "maps/picture_3"]
    pictures = batches[0]["image"][[0, 5, 10]]  # spread over the batch of 16
    (stage,) = modulation_maps(nnx.merge(spec.graph, variables.params), normalize(pictures))
    enlarged = [np.asarray(Image.fromarray(picture).resize((112, 112), Image.BICUBIC)) for picture in pictures]
    blocks = [BlockMaps("stage 1, last block", stage.modulator[-1, n], stage.gates[-1, n]) for n in range(3)]
    for sheet, expected in zip(drawn.values(), map_sheets(enlarged, blocks), strict=True):
        # With 256 colours, a value may round to the next colour.
        np.testing.assert_allclose(sheet.astype(int), np.asarray(expected).astype(int), atol=3)
    assert maps.draw(variables) == {}  # the images are released


def test_the_fill_of_a_last_batch_is_not_shown():
    config, spec, init = spec_on((1, 1, 1), ["--config.eval_batch_size=512"])  # larger than the 450 images
    maps = MapsLog(spec, 500)
    list(maps.watch(open_eval_data(config, spec.mesh, spec.task)[MAIN].batches()))
    assert len(maps.draw(init_state(spec, init).result)) == 450


def test_a_run_shows_them_at_every_evaluation(tmp_path):
    stages = ["--config.model.depths=(1,1)", "--config.eval_every_steps=30", "--config.log_maps=2"]
    done = run("train.py", *SMALL, *stages, "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "tensorboard").iterdir()
    shown = {
        (event.step, value.tag): value.image
        for event in map(Event.FromString, records(file.read_bytes()))
        for value in event.summary.value
        if value.HasField("image")
    }
    assert sorted(shown) == [(step, f"maps/picture_{number}") for step in (30, 60) for number in (1, 2)]
    first, last = (Image.open(io.BytesIO(shown[step, "maps/picture_1"].encoded_image_string)) for step in (30, 60))
    assert first.size == last.size == (5 * 112, 2 * (14 + 112 + 14))  # picture, modulator, three gates; two stages
    assert np.ptp(np.asarray(last)[14:126, 112:224]) > 50  # the modulator has more than one colour
    assert np.any(np.asarray(first) != np.asarray(last))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--config.log_maps=-1"], "log_maps=-1"),
        (["--config.log_maps=1", "--config.writers=()"], "needs TensorBoard"),
    ],
)
def test_maps_that_nothing_can_show_are_refused(settings, message):

    def started():
        config = load_config("configs/quickstart.py", settings)
        check_maps(config.log_maps, config.writers)

    with pytest.raises(UserError, match=message):
        started()
