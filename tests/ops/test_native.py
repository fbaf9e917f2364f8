"""The C++ kernels for CPUs compute the same as XLA; without a compiler, the model works without them."""

import hashlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from focalnet_jax.errors import UserError
from focalnet_jax.ops import native
from focalnet_jax.ops.aggregation import aggregate_context
from focalnet_jax.ops.implementations import describe_implementations
from tests import commands
from tests.models import drawn_model
from tests.ops.aggregating import assert_same_on_a_mesh, error, inputs, levels_by_convolutions, with_gradients, with_sum


def aggregate(name, normalize=False):
    def run(context, gates, kernels, bias):
        return aggregate_context(context, gates, kernels, bias, normalize=normalize, implementation=name)

    return run


def by_convolutions(context, gates, kernels, bias):
    total, last_sum = levels_by_convolutions(context, gates, kernels, bias)
    mean = last_sum / (context.shape[1] * context.shape[2])
    return total + jax.nn.gelu(mean, approximate=False)[:, None, None] * gates[..., -1:]


def assert_true(arguments, cotangent):
    """Asserts that the sum agrees with float64 within 1e-6, and its gradients within 1e-5."""
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (arguments, cotangent))
        total, *gradients = with_gradients(by_convolutions, *exact)
    ours = with_gradients(aggregate("native"), arguments, cotangent)
    assert error(ours[0], total) < 1e-6
    for mine, true in zip(ours[1:], gradients, strict=True):
        assert error(mine, true) < 1e-5


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((2, 14, 14, 20), (3, 5, 7)),  # channels that fill neither a register nor the group of a task
        ((1, 56, 56, 16), (3, 5)),
        ((3, 5, 11, 40), (3, 5, 7, 9)),  # rows that are not a multiple of the strips
        ((2, 2, 3, 5), (3, 9)),  # kernels wider than the map
        ((1, 1, 30, 2), (3,)),
        ((1, 9, 13, 17), (11, 13)),  # window sizes of detectors
        ((2, 7, 7, 768), (3, 5, 7)),
    ],
)
def test_sum_and_gradients_are_those_of_xla(shape, sizes):
    arguments, (cotangent, _) = inputs(shape, sizes, with_bias=True)
    assert_true(arguments, cotangent)  # roundings of sums of up to 169 products


def test_large_maps_of_one_sign_lose_no_digit():
    (context, gates, kernels, bias), (cotangent, _) = inputs((1, 160, 160, 4), (3, 5), with_bias=True)
    arguments = (jnp.abs(context) + 1, gates, tuple(map(jnp.abs, kernels)), bias)
    assert_true(arguments, cotangent)  # adding its 25600 positions one after the other would give twice this error


def test_normalizing_divides_sum_and_gradients_by_the_levels():
    arguments, (cotangent, _) = inputs((1, 5, 4, 8), (3, 5), with_bias=True)
    plain, normalized = (with_gradients(aggregate("native", each), arguments, cotangent) for each in (False, True))
    for one, third in zip(plain, normalized, strict=True):
        assert error(3 * third, one) < 1e-6  # the division is in a different place


def test_devices_that_split_batch_and_channels_compute_the_same():
    def split(*given):
        return with_sum(*[aggregate("native")(*given)] * 2)

    assert_same_on_a_mesh(split, (4, 5, 4, 64), (3, 5), True)


def digest():
    arguments, (cotangent, _) = inputs((3, 9, 9, 50), (3, 5), with_bias=True)
    results = with_gradients(aggregate("native"), arguments, cotangent)
    return hashlib.sha256(b"".join(each.tobytes() for each in results)).hexdigest()


def run_program(tmp_path, program, **variables):
    """Runs a program in a process in which no library is registered yet."""
    (tmp_path / "program.py").write_text(program)
    return commands.run(tmp_path / "program.py", env=os.environ | variables)


def test_numbers_do_not_depend_on_how_many_threads_there_are(tmp_path):
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    done = run_program(tmp_path, f"{one}; from {__name__} import digest; print(digest())")
    assert done.stdout.strip() == digest(), done.stderr


def test_a_batch_of_maps_is_computed_one_by_one():
    (context, gates, kernels, bias), _ = inputs((4, 5, 5, 8), (3,), with_bias=True)
    pairs = jax.vmap(lambda *maps: aggregate("native")(*maps, kernels, bias))(
        context.reshape(2, 2, 5, 5, 8), gates.reshape(2, 2, 5, 5, 2)
    )
    assert error(pairs.reshape(4, 5, 5, 8), aggregate("native")(context, gates, kernels, bias)) == 0


def test_arrays_it_does_not_compute_are_left_to_xla():
    assert native.supports(jnp.float32, (3, 5))
    assert not native.supports(jnp.bfloat16, (3, 5))
    assert not native.supports(jnp.float32, (4,))


def test_the_implementation_that_computes_is_described():
    auto = {"aggregation": None, "pointwise": "auto"}
    assert describe_implementations(auto, "float32", "cpu") == "aggregation native, pointwise xla"
    assert describe_implementations(auto, "bfloat16", "cpu") == "aggregation shifted, pointwise xla"
    stages = drawn_model("focalnet_tiny_lrf", embed_dim=8, depths=(1, 1), dtype="bfloat16").stages
    assert {stage.compute.aggregation for stage in stages} == {"shifted"}
    assert describe_implementations(auto | {"aggregation": "xla"}, "float32", "cpu") == "aggregation xla, pointwise xla"


@pytest.mark.parametrize("compiler", ["no-such-compiler", "'g++"])
def test_without_a_compiler_the_model_is_computed_all_the_same(compiler, tmp_path):
    program = (
        "import focalnet_jax, jax.numpy as jnp;"
        "model = focalnet_jax.create_model('focalnet_tiny_srf', embed_dim=8, depths=(1,), num_classes=2);"
        "print(model(jnp.zeros((1, 8, 8, 3))).shape);"
        "from focalnet_jax.ops.implementations import describe_implementations;"
        "print(describe_implementations({'aggregation': None, 'pointwise': None}, 'float32', 'cpu'));"
        "focalnet_jax.create_model('focalnet_tiny_srf', aggregation='native')"
    )
    (cache := tmp_path / "cache").mkdir()
    done = run_program(tmp_path, program, CXX=compiler, XDG_CACHE_HOME=str(cache))
    message = f"aggregation shifted, pointwise xla (not native: CXX={compiler} is not a program)"
    assert done.stdout.splitlines() == ["(1, 2)", message]
    assert (
        f"model.aggregation=native must be compiled on this machine, but CXX={compiler} is not a program" in done.stderr
    )
    assert not list(cache.iterdir())


def test_a_compiler_that_fails_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "c++").write_text("#!/bin/sh\necho 'error: this machine is odd' >&2\nexit 1\n")
    (tmp_path / "c++").chmod(0o755)
    program = "from focalnet_jax.ops import native; print(native.register(), native.why_not())"
    cache = str(tmp_path / "cache")
    done = run_program(tmp_path, program, CXX=str(tmp_path / "c++"), XDG_CACHE_HOME=cache)
    assert done.stdout.startswith("None ")
    assert "this machine is odd" in done.stdout
    done = run_program(tmp_path, program, CXX="false", XDG_CACHE_HOME=cache)
    assert done.stdout.endswith("false failed: exit code 1\n")
    assert not list((tmp_path / "cache" / "focalnet_jax").iterdir())


def test_an_incomplete_library_is_compiled_again(tmp_path):
    """Loading an incomplete library would end the process by a signal."""
    made, times, compiler = tmp_path / "made.so", tmp_path / "times", tmp_path / "c++"
    # Imitates a compiler that copies what it compiled once; the path of the library is its last argument.
    compiler.write_text(
        f"""#!/bin/sh
echo >> {times}
for library; do :; done
[ -f {made} ] || {{ {native.build.compiler()[0]} "$@" && cp "$library" {made}; }}
cp {made} "$library"
"""
    )
    compiler.chmod(0o755)
    program = "from focalnet_jax.ops import native; print(native.register(), native.why_not())"

    def registered():
        done = run_program(tmp_path, program, CXX=str(compiler), XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return done.stdout, times.read_text().count("\n")

    first, _ = registered()
    assert registered() == (first, 1)
    (library,) = (tmp_path / "focalnet_jax").iterdir()
    whole = library.read_bytes()
    for number, kept in enumerate((0, 7, 20000, len(whole) - 1)):
        library.write_bytes(whole[:kept])
        assert registered() == (first, 2 + number)
        assert library.read_bytes() == whole


def test_second_derivatives_are_refused_by_the_name_of_the_option():
    (context, *rest), _ = inputs((1, 4, 4, 8), (3,), True)

    def slope(context):
        return jax.grad(lambda context: (aggregate("native")(context, *rest) ** 2).sum())(context).sum()

    with pytest.raises(UserError, match=r"for second derivatives, create the model with model\.aggregation=xla"):
        jax.grad(slope)(context)


def test_numbers_of_several_kinds_and_half_precision_are_left_to_others():
    (context, gates, *rest), _ = inputs((1, 4, 4, 8), (3,), True)
    mixed = aggregate("native")(context, gates.astype(jnp.bfloat16), *rest)
    np.testing.assert_allclose(mixed, aggregate("native")(context, gates, *rest), rtol=0.02, atol=0.02)  # of bfloat16
    with pytest.raises(UserError, match="native computes only in float32, but the model computes in bfloat16: set"):
        drawn_model("focalnet_tiny_srf", embed_dim=8, depths=(1,), aggregation="native", dtype="bfloat16")


@pytest.mark.parametrize("name", ["native", "shifted", "xla"])
def test_parts_by_hand_and_meshes_of_others_compute_the_same(name):
    (context, gates, kernels, bias), _ = inputs((8, 4, 4, 8), (3, 5), True)
    expected = aggregate("xla")(context, gates, kernels, bias)
    mesh = jax.make_mesh((4, 2), ("examples", "tensor"), axis_types=(AxisType.Auto,) * 2)
    whole, wide = P("examples"), P("examples", None, None, "tensor")
    parts = (wide, whole, (P(None, None, None, "tensor"),) * 2, P("tensor"))
    for run in (
        jax.jit(jax.shard_map(aggregate(name), mesh=mesh, in_specs=parts, out_specs=wide, check_vma=False)),
        lambda *given: jax.pmap(lambda c, g: aggregate(name)(c, g, *given[2:]))(given[0][:, None], given[1][:, None])[
            :, 0
        ],
    ):
        assert error(run(context, gates, kernels, bias), expected) < 1e-6
    with jax.set_mesh(mesh):
        assert error(jax.jit(aggregate(name))(context, gates, kernels, bias), expected) < 1e-6
