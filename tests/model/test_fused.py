"""A block's TPU kernels compute the same as its separate layers; here they are interpreted on a CPU."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from focalnet_jax.distributed.mesh import make_mesh
from focalnet_jax.model import FocalNetConfig
from focalnet_jax.model.blocks import FocalBlock, PatchEmbed, Stage
from focalnet_jax.model.precision import get_precision
from focalnet_jax.ops import fused, pointwise
from focalnet_jax.ops.compute import EXACT, Compute
from focalnet_jax.ops.mosaic import layers
from tests.ops.aggregating import error

CONFIG = FocalNetConfig(embed_dim=16, depths=(1,), focal_levels=2)
VARIANTS = {
    "plain": {},
    "postln": {"use_postln": True, "use_layerscale": True, "layerscale_value": 0.3},
    "postln in modulation": {"use_postln_in_modulation": True, "normalize_modulator": True, "mlp_ratio": 2.5},
}


def by_xla(precision):
    policy = get_precision(precision)
    return Compute(policy.dtype, policy.matmul)


def made(config, shape, precision="float32"):
    """Returns a block without zero weights, its input, the factors of its branches, and the cotangent of its output."""
    block = FocalBlock(config, 0, compute=by_xla(precision), rngs=nnx.Rngs(0))
    leaves, tree = jax.tree.flatten(nnx.state(block, nnx.Param))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    nnx.update(block, jax.tree.unflatten(tree, noisy))
    dtype = get_precision(precision).dtype
    x, cotangent = jax.random.normal(jax.random.key(2), (2, *shape, config.dims[0]), dtype)
    factors = jnp.where(jnp.arange(2 * shape[0]).reshape(-1, 2) % 3 == 0, 0.0, 1.25)
    return block, x, factors, cotangent


def in_kernels(block, x, factors):
    return fused.run_block(block, x, factors, interpret=True)


def layer_by_layer(block, x, factors):
    first, second = factors.astype(x.dtype).T[..., None, None, None]
    x = x + block._modulate(x, None) * first
    return x + block._transform(x, None) * second


def with_gradients(run, block, x, factors, cotangent):
    """Returns the output, and the gradients of the input and of all parameters."""
    graph, params = nnx.split(block)

    @jax.jit
    def both(params, x, factors, cotangent):
        out, back = jax.vjp(lambda params, x: run(nnx.merge(graph, params), x, factors), params, x)
        return out, back(cotangent)

    out, (of_params, of_x) = both(params, x, factors, cotangent)
    return [out, of_x, *jax.tree.leaves(of_params)]


# The last of eight kernel instances extends below the map, on one core and on two that share positions or examples; or
# a single instance has the whole map.
@pytest.mark.parametrize(
    ("variant", "rows", "cores", "batch"),
    [("plain", 16, 1, 3), *((variant, 16, 2, 3) for variant in VARIANTS), ("plain", 16, 2, 11), ("plain", 128, 1, 3)],
)
def test_output_and_gradients_are_those_of_the_layers(variant, rows, cores, batch, monkeypatch):
    monkeypatch.setattr(layers, "cores", lambda: cores)
    monkeypatch.setattr(layers, "_FEWEST", rows)
    monkeypatch.setattr(layers, "_MOST", rows)
    given = made(dataclasses.replace(CONFIG, **VARIANTS[variant]), (batch, 5, 3))
    ours, theirs = (with_gradients(run, *given) for run in (in_kernels, layer_by_layer))
    assert error(ours[0], theirs[0]) < 1e-6
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert error(mine, other) < 1e-5


def test_bfloat16_is_no_further_from_the_truth_than_the_layers():
    block, x, factors, cotangent = made(CONFIG, (8, 4, 4), "bfloat16")
    exact, *_ = made(CONFIG, (8, 4, 4), "float32")
    wide = x.astype(jnp.float32), factors, cotangent.astype(jnp.float32)
    truth = with_gradients(layer_by_layer, exact, *wide)  # with an error a thousand times smaller
    ours, theirs = (with_gradients(run, block, x, factors, cotangent) for run in (in_kernels, layer_by_layer))
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        mine, other = (np.sqrt(((np.float64(each) - np.float64(true)) ** 2).mean()) for each in (mine, other))
        assert mine <= 1.05 * other


def test_devices_that_split_the_batch_compute_the_same():
    block, x, factors, cotangent = made(CONFIG, (8, 3, 3))
    alone = with_gradients(in_kernels, block, x, factors, cotangent)
    mesh = make_mesh({"data": 4, "fsdp": 2, "tensor": 1})
    placed = jax.device_put((x, factors, cotangent), NamedSharding(mesh, PartitionSpec()))

    def split(block, x, factors):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return in_kernels(block, x, factors)

    nnx.update(block, jax.device_put(nnx.state(block), NamedSharding(mesh, PartitionSpec())))
    for one, many in zip(alone, with_gradients(split, block, *placed), strict=True):
        assert error(many, one) < 1e-6  # sums over devices have a different order


def test_embeddings_bias_and_norm_in_a_kernel_are_those_of_the_layers():
    embedding = PatchEmbed(16, 24, kernel=3, stride=2, padding=1, compute=EXACT, rngs=nnx.Rngs(0))
    x, cotangent = (
        jax.random.normal(jax.random.key(0), (3, 6, 10, 16)),
        jax.random.normal(jax.random.key(1), (3, 3, 5, 24)),
    )
    embedding.norm.scale[...] = jax.random.normal(jax.random.key(2), (24,))

    def in_kernel(embedding, x, _):
        return fused.run_embedding(embedding.proj, embedding.norm, x, interpret=True)

    ours, theirs = (
        with_gradients(run, embedding, x, None, cotangent) for run in (in_kernel, lambda embedding, x, _: embedding(x))
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert error(mine, other) < 1e-5


@pytest.mark.parametrize(("chip", "largest"), [("TPU v5 lite", 1024), ("TPU v5", 512), ("TPU v4", 256)])
def test_blocks_whose_weights_do_not_fit_are_left_to_xla(chip, largest, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=chip)])
    widths = (96, 192, 256, 352, 384, 512, 704, 768, 1024, 1408, 1536, 2816)

    def block(dim, **options):
        config = dataclasses.replace(CONFIG, embed_dim=dim, **options)
        return nnx.eval_shape(lambda: FocalBlock(config, 0, compute=by_xla("bfloat16"), rngs=nnx.Rngs(0)))

    assert [dim for dim in widths if fused.fits(block(dim))] == [dim for dim in widths if dim <= largest]
    postln = largest if chip != "TPU v4" else 192  # with 256, the compiler reports that they do not fit
    assert [dim for dim in widths if fused.fits(block(dim, use_postln=True))] == [
        dim for dim in widths if dim <= postln
    ]
    for ablation in ("use_gates", "use_global_level", "use_modulation"):
        assert not fused.fits(block(96, **{ablation: False}))
    assert fused.fits(block(96, use_depthwise_conv=False))


def test_kernels_are_for_bfloat16_where_they_are_asked_for():
    assert pointwise.suits("mosaic", jnp.bfloat16)
    assert not pointwise.suits("xla", jnp.bfloat16)
    assert not pointwise.suits("mosaic", jnp.float32)
    with jax.sharding.use_abstract_mesh(make_mesh({"data": 4, "fsdp": 1, "tensor": 2}).abstract_mesh):
        assert not pointwise.suits("mosaic", jnp.bfloat16)


def schedule(precision="bfloat16", aggregation="xla", **options):
    config = dataclasses.replace(CONFIG, **{"depths": (2,)} | options)
    compute = dataclasses.replace(by_xla(precision), aggregation=aggregation, pointwise="mosaic")
    return nnx.eval_shape(lambda: Stage(config, 0, compute=compute, rngs=nnx.Rngs(0))).schedule()


def test_gradients_of_weights_are_written_outside_of_kernels():
    """If a kernel writes them into a loop's arrays, a TPU's compiler reserves too little fast memory for the kernel."""
    graph, params = nnx.split(PatchEmbed(3, 16, kernel=2, stride=2, padding=0, compute=EXACT, rngs=nnx.Rngs(0)))
    x = jnp.ones((1, 4, 4, 3))

    def loss(params):
        embedding = nnx.merge(graph, params)
        return fused.run_embedding(embedding.proj, embedding.norm, x, interpret=True).sum()

    assert jax.jit(jax.grad(loss)).lower(params).as_text().count("optimization_barrier") == 1


def test_blocks_are_computed_again_where_kernels_run_in_a_loop():
    def chosen(remat="auto", **options):
        return schedule(remat=remat, scan_blocks=True, **options).remat

    assert chosen() == chosen(use_layerscale=True) == "full"
    assert chosen(precision="float32") == chosen(embed_dim=2816) == schedule().remat == "none"
    assert chosen("dots") == "dots"


def test_blocks_of_kernels_of_our_own_are_unrolled_and_those_of_xla_run_in_a_loop():
    assert not schedule().scan
    assert schedule(scan_blocks=True).scan
    assert schedule(embed_dim=2816).scan
    assert schedule(precision="float32").scan
    assert not schedule(precision="float32", scan_blocks=False).scan
    assert not schedule(precision="float32", aggregation="native").scan
    with jax.sharding.use_abstract_mesh(make_mesh({"data": 1, "fsdp": 8, "tensor": 1}).abstract_mesh):
        assert schedule().scan  # where weights are gathered, a loop needs few of them at a time
    assert not schedule(depths=(1,), embed_dim=2816, scan_blocks=True).scan
