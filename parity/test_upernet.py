"""UPerNet computes the same as mmsegmentation's with the original's dense FocalNet."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from skimage import data

from focalnet_jax.convert.mapping import from_tensors, table_entries
from focalnet_jax.convert.tables_upernet import MMSEG, variables_to_mmseg
from focalnet_jax.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from focalnet_jax.model import variant_config
from focalnet_jax.parameters import named_leaves
from parity.measure import photos, relative
from parity.upernet import arrays, both_logits, build, ours_from

pytestmark = pytest.mark.filterwarnings("ignore")  # mmsegmentation's advice about its losses

# float32 on both sides, summed in different orders, as in test_models.py; gradients pass through twice the layers.
FLOAT32, GRADIENTS = 1e-5, 1e-4
CLASSES, RATE, STEPS = 7, 0.05, 5
HEADS = dict(channels=16, auxiliary_channels=12)
SMALL = dict(embed_dim=12, depths=(1, 1, 2, 1), focal_windows=9, drop_path_rate=0.0)
CONFIGS = {
    "srf": variant_config("focalnet_tiny_srf", **SMALL),
    "lrf": variant_config("focalnet_tiny_lrf", **SMALL),
    "overlapped": variant_config("focalnet_tiny_lrf", **SMALL, use_conv_embed=True, use_layerscale=True),
}


def pair(name):
    theirs = build(CONFIGS[name], CLASSES, **HEADS)
    return theirs, ours_from(theirs, CONFIGS[name], CLASSES, **HEADS)


def batch(height=97, width=130):
    """Returns four images: BatchNorm of only two values per channel has a derivative of nearly 0."""
    two = photos(height, width)
    return np.concatenate([two, two[::-1, ::-1, ::-1] * 0.7])


def loss_of(logits, auxiliary, ops):
    return ops.sin(3 * logits).mean() + 0.4 * ops.sin(3 * auxiliary).mean()


@cache
def compiled(name):
    """Returns the graph of a model, and its jitted loss, gradients and statistics in training."""
    graph, *_ = nnx.split(pair(name)[1], nnx.Param, nnx.BatchStat)

    @jax.jit
    def step(params, statistics, images):
        def loss(params):
            model = nnx.merge(graph, params, statistics)
            logits = model(images, train=True)
            return loss_of(*logits, jnp), (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return step


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [(128, 128), (97, 130), (128, 171)], ids=str)
def test_logits_are_mmsegmentations(name, size):
    theirs, ours = pair(name)
    with torch.no_grad():
        expected, _ = both_logits(theirs, photos(*size))
    found = jax.jit(lambda x: ours(x))(photos(*size))
    assert found.shape == (2, -(-size[0] // 4), -(-size[1] // 4), CLASSES)
    assert relative(found, expected) < FLOAT32


def variables(model):
    """Returns the parameters and the running statistics."""
    return (nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat))


@pytest.mark.parametrize("name", ["lrf", "overlapped"])
def test_training_logits_gradients_and_statistics_are_mmsegmentations(name):
    theirs, ours = pair(name)
    theirs.train()
    expected = both_logits(theirs, batch())
    loss_of(*expected, torch).backward()
    (_, (logits, statistics)), gradients = compiled(name)(*variables(ours), batch())
    for mine, other in zip(logits, expected, strict=True):
        assert relative(mine, other.detach()) < FLOAT32
    found = named_leaves(gradients)
    wanted = by_our_names({key: each.grad.numpy() for key, each in theirs.named_parameters()}, gradients, name)
    assert found.keys() == wanted.keys()
    for key, leaf in found.items():
        if key in ("backbone/output_norms/0/bias", "backbone/output_norms/1/bias"):
            # A constant per channel, which the BatchNorm after the 1x1 convolution subtracts: the gradient is 0.
            scale = np.linalg.norm(found[key.replace("bias", "scale")])
            assert np.linalg.norm(leaf) < GRADIENTS * scale
            assert np.linalg.norm(wanted[key]) < GRADIENTS * scale
        else:
            assert relative(leaf, wanted[key]) < GRADIENTS, key
    their_statistics = by_our_names(
        {key: each for key, each in arrays(theirs).items() if "running" in key}, statistics, name
    )
    for key, leaf in named_leaves(statistics).items():
        assert relative(leaf, their_statistics[key]) < FLOAT32, key


def by_our_names(tensors, like, name):
    """Returns arrays by this package's names from tensors of a part of the variables."""
    entries = table_entries(MMSEG, named_leaves(like), postln=CONFIGS[name].use_postln, format="mmseg")
    return named_leaves(from_tensors(tensors, entries, like))


def test_running_statistics_are_torchs_after_five_steps():
    theirs, ours = pair("lrf")
    theirs.train()
    optimizer = torch.optim.SGD(theirs.parameters(), RATE)
    params, statistics = variables(ours)
    for number in range(STEPS):
        images = np.roll(batch(), 7 * number, axis=2)
        expected = loss_of(*both_logits(theirs, images), torch)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        (loss, (_, statistics)), gradients = compiled("lrf")(params, statistics, images)
        params = jax.tree.map(lambda param, gradient: param - RATE * gradient, params, gradients)
        assert float(loss) == pytest.approx(expected.item(), rel=FLOAT32)
    wanted = by_our_names({key: each for key, each in arrays(theirs).items() if "running" in key}, statistics, "lrf")
    for key, leaf in named_leaves(statistics).items():
        assert relative(leaf, wanted[key]) < FLOAT32, key


def test_the_comparison_sees_the_biased_variance():
    theirs, ours = pair("lrf")
    key, module = "decode_head/psp_modules/0/bn/var", theirs.decode_head.psp_modules[0][1]
    old = module.bn.running_var.numpy().copy()
    theirs.train()
    with torch.no_grad():
        both_logits(theirs, batch())
    (_, (_, statistics)), _ = compiled("lrf")(*variables(ours), batch())
    biased = 0.9 * old + (named_leaves(statistics)[key] - 0.9 * old) * 3 / 4  # 4 images with one value per channel
    assert relative(biased, module.bn.running_var) > 10 * FLOAT32


@pytest.mark.parametrize("name", CONFIGS)
def test_conversion_there_and_back_is_exact_and_complete(name):
    theirs, ours = pair(name)
    state = nnx.to_pure_dict(nnx.state(ours))
    written = dict(variables_to_mmseg(state, CONFIGS[name]))
    given = arrays(theirs)
    assert written.keys() == given.keys()
    for key, array in written.items():
        np.testing.assert_array_equal(array, given[key], err_msg=key)
        assert array.dtype == given[key].dtype
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in written.items()})


def test_full_size_logits_are_mmsegmentations():
    config = variant_config("focalnet_tiny_lrf", focal_windows=9, drop_path_rate=0.0)
    theirs = build(config, 150)
    run = jax.jit(ours_from(theirs, config, 150))
    square = (data.astronaut() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    for width in (512, 683):
        images = np.pad(square, ((0, 0), (0, width - 512), (0, 0)), "reflect")[None].astype(np.float32)
        with torch.no_grad():
            expected, _ = both_logits(theirs, images)
        assert relative(run(images), expected) < FLOAT32
