"""A FocalNet is found in files of all trainers; choices and ignored contents are reported."""

import pickle
import sys

import numpy as np
import pytest
import safetensors.numpy

import focalnet_jax
from focalnet_jax.convert.load import load_into
from focalnet_jax.convert.mapping import params_to_tensors
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from tests.commands import convert
from tests.convert.golden_files import GOLDEN, OPTIONS
from tests.convert.test_adapt import on_one_device
from tests.convert.torch_writer import Call, Global, save, save_legacy

TENSORS = safetensors.numpy.load_file(GOLDEN / "timm_lrf.safetensors")
PLAIN = OPTIONS["timm_lrf"]
OTHER = {name: value + 1 for name, value in TENSORS.items()}
PARTS = ("weight", "bias")
HEADLESS = {name: value for name, value in TENSORS.items() if not name.startswith(("head.", "norm."))}


def under(prefix, tensors=TENSORS):
    return {prefix + name: value for name, value in tensors.items()}


def holds(weights, tensors=TENSORS):
    """Returns whether `weights` are bitwise equal to these tensors."""
    written = dict(params_to_tensors(weights.params, weights.config, "timm"))
    return written.keys() == tensors.keys() and all(np.array_equal(written[name], tensors[name]) for name in tensors)


def read(path, **options):
    return read_weights(path, options=PLAIN, **options)


def attribute_dict(**entries):
    return Call("lightning.fabric.utilities.data AttributeDict", entries=entries)


BESIDE = {
    "epoch": 3,
    "hyper_parameters": attribute_dict(lr=0.1, net=Call("my.code Net", state={"_modules": {}, "_parameters": {}})),
    "seen": Call("collections defaultdict", (Global("builtins int"),), entries={"a": 1}),
    "log": Call("mmengine.logging.history_buffer HistoryBuffer", state={"_log_history": [1.0, 2.0]}),
    "kind": Call("builtins getattr", (Global("my.code Kind"), "BEST")),
    "optimizer": {"state": {0: {"exp_avg": np.zeros(3, np.float32)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}
LAYOUTS = {
    "lightning.ckpt": {"state_dict": under("model."), "loops": {}, **BESIDE},
    "deepspeed.pt": {"module": under("module.model."), "ds_config": {"zero": 1}, **BESIDE},
    "timm.pth.tar": {"state_dict": under("module."), "arch": "focalnet", **BESIDE},
    "nested": {"models": {"classifier": {"net": TENSORS}}, **BESIDE},
    "split.bin": {"model": {"stem": {"x": 1}}, "net": under("_orig_mod.module."), **BESIDE},
    "attributes.model": {"trainer": Call("my.code Trainer", state={"net": TENSORS, "step": 4})},
    "tuple.pt2": ([1, 2], {"weights": Call("collections OrderedDict", entries=TENSORS)}),
    "reversed.pth": {"optimizer": BESIDE["optimizer"], "zzz": [TENSORS]},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_trainers_save_is_read_bit_for_bit_without_torch(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for write in (save, save_legacy):
        assert holds(read(write(LAYOUTS[name], tmp_path / name)))


@pytest.mark.parametrize("suffix", ["", ".ckpt", ".model", ".weights", ".tar", ".safetensors", ".jpg", ".index"])
def test_the_content_decides_what_a_file_is_and_not_its_name(suffix, tmp_path):
    safetensors.numpy.save_file(under("model.backbone."), tmp_path / f"safe{suffix}")
    assert holds(read(tmp_path / f"safe{suffix}"))
    assert holds(read(save(TENSORS, tmp_path / f"torch{suffix}")))


def test_arrays_of_a_plain_pickle_are_read(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": TENSORS, "__author__": "x"}, protocol=2))
    (tmp_path / "new.pkl").write_bytes(pickle.dumps({"model": TENSORS}, protocol=4))
    assert holds(read(tmp_path / "model.pkl"))
    assert holds(read(tmp_path / "new.pkl"))


def test_averaged_weights_can_be_chosen_and_the_choice_is_reported(tmp_path):
    files = {
        "timm": {"state_dict": TENSORS, "state_dict_ema": under("module.", OTHER)},
        "wrapper": {"state_dict": under("model.") | under("ema_model.module.", OTHER)},
        "callback": {"state_dict": under("net."), "callbacks": {"EMA": {"ema_state_dict": OTHER}}},
        "averaged": {"state_dict": under("model.") | under("swa_model.", OTHER)},
    }
    for name, content in files.items():
        path = save(content, tmp_path / name)
        weights = read(path)
        assert holds(weights)
        assert any("use --weights ema for them" in note for note in weights.notes), name
        assert holds(read(path, which="ema"), OTHER)
        with pytest.warns(UserWarning, match="not the averaged weights"):
            focalnet_jax.load_model(path, **PLAIN)
    # mmengine and Lightning store the average as state_dict
    swapped = {
        "mmengine": {"meta": {"epoch": 1}, "message_hub": {}, "state_dict": OTHER, "ema_state_dict": under("module.")},
        "lightning": {"state_dict": OTHER, "current_model_state": TENSORS, "averaging_state": {"n_averaged": 3}},
    }
    for name, content in swapped.items():
        path = save(content, tmp_path / name)
        assert holds(read(path), OTHER)
        assert holds(read(path, which="ema"), OTHER)
        assert "averaged weights under state_dict" in read(path).notes[0]
        assert holds(read(path, which=list(content)[-1] if name == "mmengine" else "current_model_state"))
    alone = read(save({"model_ema": TENSORS}, tmp_path / "alone"))
    assert alone.notes[0] == "these are averaged weights, model_ema"


def test_of_peers_one_must_be_chosen_and_the_message_lists_them(tmp_path):
    pair = under("student.backbone.") | under("teacher.backbone.", OTHER)
    safetensors.numpy.save_file(pair, tmp_path / "pair.safetensors")
    save({"teacher": under("backbone.", OTHER), "student": under("backbone.")}, tmp_path / "pair.pth")
    save({"model": pair, "model_ema": under("student.")}, tmp_path / "three.pth")
    for name in ("pair.safetensors", "pair.pth", "three.pth"):
        listed = r"teacher\.backbone \(timm, 63 tensors\).*choose one with --weights NAME"
        with pytest.raises(UserError, match=f"contains . FocalNets: .*{listed}"):
            read(tmp_path / name)
        assert holds(read(tmp_path / name, which="teacher"), OTHER)
    assert holds(read(tmp_path / "pair.pth", which="student.backbone."))
    for which in ("ema", "head", "backbone"):
        with pytest.raises(UserError, match=f"--weights {which}: expected one FocalNet .*found .; the file contains"):
            read(tmp_path / "pair.pth", which=which)
    # the same model under two keys counts once
    assert holds(read(save({"model": TENSORS, "state_dict": TENSORS}, tmp_path / "one.pth")))


@pytest.mark.filterwarnings("ignore:.*final norm")
def test_a_backbone_is_taken_out_of_a_larger_model_and_what_is_left_is_counted(tmp_path):
    head = np.ones((3, 3), np.float32)
    norms = {f"norm{stage}.{part}": np.full(8 * 2**stage, 2 + stage, np.float32) for stage in (0, 1) for part in PARTS}
    files = {
        "mmdet": {"meta": {}, "state_dict": under("backbone.") | {"neck.conv.weight": head, "bbox_head.fc.bias": head}},
        "dino": {"model": under("backbone.0.", HEADLESS) | {"transformer.level_embed": head, "label_enc.weight": head}},
        "smp": {"state_dict": under("encoder.model.", HEADLESS) | {"decoder.weight": head, "head.0.weight": head}},
        "seem": under("model.image_encoder.", HEADLESS | norms) | {"model.text.weight": head},
        "own": TENSORS | {"neck.weight": head, "decode_head.conv.bias": head},
    }
    for name, content in files.items():
        weights = read(save(content, tmp_path / name))
        left = next(note for note in weights.notes if "tensors left out" in note)
        assert left.startswith("3 tensors" if name == "seem" else "2 tensors"), left
        model = focalnet_jax.load_model(tmp_path / name, num_classes=7, head="drop", **PLAIN)
        assert model.head.kernel.shape == (16, 7)
        np.testing.assert_array_equal(model.patch_embed.norm.bias[...], TENSORS["stem.norm.bias"])
    fresh = read(tmp_path / "dino")
    assert fresh.config.num_classes == 0
    assert fresh.notes[-3] == "no final norm in the file: added a new one (scale 1, bias 0)"
    assert (fresh.params["norm"]["scale"] == 1).all()
    assert (read(tmp_path / "seem").params["norm"]["scale"] == 3).all()
    assert "norm1, the norm of the backbone's last output, taken as the final norm" in read(tmp_path / "seem").notes


def test_tensors_that_may_be_part_of_the_computation_are_not_left_out_silently(tmp_path):
    extra = np.ones(8, np.float32)
    for name in ("absolute_pos_embed", "layers.0.blocks.0.extra.weight", "norm.extra", "head.fc.1.weight"):
        for prefix in ("", "model."):
            safetensors.numpy.save_file(under(prefix, TENSORS | {name: extra}), tmp_path / "file")
            with pytest.raises(UserError, match=f"not used {name}"):
                read(tmp_path / "file")
    # with --head drop, a classifier that is not FocalNet's is ignored
    own = under("net.", HEADLESS | {"norm.weight": np.ones(16, np.float32), "norm.bias": np.ones(16, np.float32)})
    safetensors.numpy.save_file(own | {"net.head.mlp.0.weight": extra}, tmp_path / "own")
    with pytest.raises(UserError, match=r"not used head\.mlp\.0\.weight"):
        read(tmp_path / "own")
    assert focalnet_jax.load_model(tmp_path / "own", num_classes=2, head="drop", **PLAIN).config.num_classes == 2


def test_counters_and_parts_of_pretraining_are_left_and_reported(tmp_path):
    swa = {"n_averaged": np.array(7), **under("module.")}
    assert "1 tensor left out: n_averaged (1)" in read(save(swa, tmp_path / "swa")).notes
    assert "1 tensor left out: step (1)" in read(save({"step": np.array(7), **TENSORS}, tmp_path / "step")).notes
    theirs = safetensors.numpy.load_file(GOLDEN / "huggingface_srf.safetensors")
    backbone = {name: value for name, value in theirs.items() if name.startswith("focalnet.")}
    pretraining = {"decoder.0.weight": np.ones((3, 3), np.float32), "focalnet.embeddings.mask_token": np.ones(8)}
    plain = {name.removeprefix("focalnet."): value for name, value in backbone.items()}
    for name, tensors, count in (
        ("mim", backbone | pretraining, 2),
        ("wrapped", {f"model.{key}": value for key, value in (backbone | pretraining).items()}, 2),
        ("bare", {f"model.encoder.{key}": value for key, value in plain.items()} | {"fc.weight": np.ones(3)}, 1),
    ):
        safetensors.numpy.save_file(tensors, tmp_path / name)
        weights = read_weights(tmp_path / name, options=OPTIONS["huggingface_srf"])
        assert weights.config.num_classes == 0
        assert any(note.startswith(("1 tensor left out", f"{count} tensors left out")) for note in weights.notes), (
            weights.notes
        )
        for theirs_name, value in params_to_tensors(weights.params, weights.config, "huggingface"):
            np.testing.assert_array_equal(value, backbone[theirs_name])


def test_float64_is_read_and_written_as_a_stated_type(tmp_path):
    double = {name: value.astype(np.float64) for name, value in TENSORS.items()}
    safetensors.numpy.save_file(double, tmp_path / "double.safetensors")
    for path in (tmp_path / "double.safetensors", save(double, tmp_path / "double.pth")):
        weights = read(path)
        assert (weights.dtype, holds(weights)) == ("float64", True)
        out = tmp_path / f"{path.name}.safetensors"
        assert write_weights(weights, out, format="timm").notes[0] == "cast from float64 to float32"
        with pytest.warns(UserWarning, match="contains float64 weights; they are converted to float32"):
            focalnet_jax.load_model(path, **PLAIN)
    double["norm.bias"][0] = 1e300
    with pytest.raises(UserError, match=r"norm\.bias has values up to 1e\+300, which exceed the range of float32"):
        read(save(double, tmp_path / "large.pth"))


def test_directories_of_deepspeed_and_of_a_single_file_are_read(tmp_path):
    for folder in ("plain/global_step5", "lightning/checkpoint", "itself"):
        place = tmp_path / folder
        place.mkdir(parents=True)
        save({"module": under("_forward_module.model."), **BESIDE}, place / "mp_rank_00_model_states.pt")
        save({"optimizer_state_dict": {}}, place / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (tmp_path / "plain" / "latest").write_text("global_step5\n")
    (tmp_path / "single").mkdir()
    safetensors.numpy.save_file(TENSORS, tmp_path / "single" / "best.safetensors")
    (tmp_path / "single" / "README.md").write_text("weights")
    for folder in ("plain", "lightning", "itself", "single"):
        assert holds(read(tmp_path / folder)), folder
    refused = {
        "zero3": "zero_pp_rank_0_mp_rank_00_model_states.pt",
        "fsdp": ".metadata",
        "tensorflow": "saved_model.pb",
    }
    for folder, name in refused.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    (tmp_path / "fsdp" / "__0_0.distcp").touch()
    for folder, message in {"zero3": "zero_to_fp32", "fsdp": "dcp_to_torch", "tensorflow": "TensorFlow"}.items():
        with pytest.raises(UserError, match=message):
            read(tmp_path / folder)


def test_training_evaluation_and_prediction_take_the_choice_of_weights(tmp_path):
    path = save({"state_dict": under("model."), "state_dict_ema": OTHER}, tmp_path / "last.ckpt")
    config = read(path).config
    like = on_one_device(config)
    for which, tensors in ((None, TENSORS), ("ema", OTHER), ("state_dict.model", TENSORS)):
        loaded = load_into(str(path), config, like, which=which)
        np.testing.assert_array_equal(loaded.params["norm"]["bias"], tensors["norm.bias"])
        assert ("use --weights ema for them" in loaded.source) == (which is None)
    with pytest.warns(UserWarning, match="not the averaged weights"):
        load_classifier(path, options=PLAIN)
    averaged = load_classifier(path, options=PLAIN, which="ema")
    np.testing.assert_array_equal(averaged.model.norm.bias[...], OTHER["norm.bias"])


def test_commands_take_the_choice_of_weights(tmp_path):
    path = save({"state_dict": TENSORS, "state_dict_ema": OTHER}, tmp_path / "last.pth.tar")
    option = ["--option", "normalize_modulator=false"]
    done = convert(path, tmp_path / "raw.safetensors", "--to", "timm", *option)
    assert "note      took state_dict, not the averaged weights, state_dict_ema: use --weights ema" in done.stdout
    done = convert(path, tmp_path / "ema.safetensors", "--to", "timm", *option, "--weights", "ema")
    assert "took state_dict_ema (timm, 63 tensors), as requested by --weights ema" in done.stdout
    assert holds(read(tmp_path / "ema.safetensors"), OTHER)
    done = convert(path, tmp_path / "x.safetensors", "--to", "timm", *option, "--weights", "teacher")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "expected one FocalNet of that key or prefix, found 0" in done.stderr
    checkpoint = tmp_path / "checkpoint"
    write_weights(read(path), checkpoint, format="orbax")
    with pytest.raises(UserError, match="has only the item params; omit the flag, which is for PyTorch files"):
        read_weights(checkpoint, which="ema")


def test_a_directory_of_several_weights_files_is_refused(tmp_path):
    for name in ("epoch=3.ckpt", "last.ckpt"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"contains 2 weights files, such as epoch=3\.ckpt: give one of them"):
        read_weights(tmp_path)
