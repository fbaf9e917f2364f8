"""Files of mmdetection's detectors are read with class names, averages and normalization, and written unchanged."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from focalnet_jax import load_model
from focalnet_jax.convert.__main__ import main
from focalnet_jax.convert.card import model_card
from focalnet_jax.convert.detectors import ARCHITECTURES, abstract_detector, all_variables
from focalnet_jax.convert.info import WeightsInfo
from focalnet_jax.convert.load_detector import load_detector
from focalnet_jax.convert.read_detector import read_detector
from focalnet_jax.convert.tables_detection import variables_to_tensors
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.weights_task import weights_task
from focalnet_jax.convert.write_detector import write_detector
from focalnet_jax.data.preprocessing import Normalization
from focalnet_jax.errors import UserError
from focalnet_jax.hub.address import parse_address
from focalnet_jax.inference import load_predictor
from focalnet_jax.parameters import named_leaves
from tests.convert.random_weights import DETECTOR_HEADS, random_detector
from tests.convert.torch_writer import save

NAMES = ("cat", "dog", "bird")
NORMALIZED = """img_norm_cfg = dict(mean=[51, 102, 153], std=[25.5, 51.0, 76.5], to_rgb={order})
train_pipeline = [dict(type='Normalize', mean=[51, 102, 153], std=[25.5, 51.0, 76.5], to_rgb={order})]
"""
PREPROCESSOR = """model = dict(data_preprocessor=dict(
    type='DetDataPreprocessor', mean=[51, 102, 153], std=[25.5, 51.0, 76.5], bgr_to_rgb={order}, pad_size_divisor=32))
"""
CONFIGS = {"config": NORMALIZED, "cfg": PREPROCESSOR}


def tensors_of(weights):
    """Returns mmdetection's state dict."""
    return dict(variables_to_tensors(all_variables(weights), weights.config, weights.head.name))


@pytest.fixture(scope="module", params=DETECTOR_HEADS)
def given(request):
    return random_detector(request.param)


@pytest.fixture(scope="module")
def atss():
    return random_detector("atss")


def assert_same(path, weights, **options):
    found = read_detector(path, **options)
    assert (found.config, found.head) == (weights.config, weights.head)
    read, expected = (named_leaves(all_variables(each)) for each in (found, weights))
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array, err_msg=name)
    return found


def test_every_format_and_back_is_exact(given, tmp_path):
    meta = {"CLASSES": NAMES, "epoch": 12}
    source = save({"meta": meta, "state_dict": tensors_of(given), "optimizer": {}}, tmp_path / "v2.pth")
    for format, name in (("orbax", "a"), ("mmdet", "b.safetensors"), ("orbax", "c")):
        assert main([str(source), str(tmp_path / name), "--to", format]) == 0
        source = tmp_path / name
        assert weights_task(source) == "detection"
        assert assert_same(source, given).info.classes == NAMES
    written = load_file(tmp_path / "b.safetensors")
    expected = tensors_of(given)
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], array) for name, array in expected.items())


def test_prefixes_and_averages_of_mmengine_and_mmcv_are_told_apart(given, tmp_path):
    tensors = tensors_of(given)
    path = save({f"module.{name}": array for name, array in tensors.items()}, tmp_path / "wrapped.pth")
    assert_same(path, given)
    other = {name: array + 1 for name, array in tensors.items()}
    new = {"meta": {"iter": 9, "dataset_meta": {"classes": list(NAMES)}}, "message_hub": {}, "state_dict": other}
    average = {f"module.{name}": array for name, array in tensors.items()} | {"steps": np.int64([9])}
    path = save(new | {"ema_state_dict": average}, tmp_path / "new.pth")
    assert "took the averaged weights under state_dict" in " ".join(read_detector(path).decisions)
    assert assert_same(path, given, which="ema_state_dict").info.classes == NAMES
    flat = {f"ema_{name.replace('.', '_')}": array + 1 for name, array in tensors.items() if array.dtype != np.int64}
    path = save({"state_dict": tensors | flat}, tmp_path / "old.pth")
    assert_same(path, given)
    averaged = named_leaves(read_detector(path, which="ema").params)
    first = "backbone/patch_embed/proj/bias"
    np.testing.assert_array_equal(averaged[first], named_leaves(given.params)[first] + 1)


def test_missing_and_other_tensors_are_named(given, tmp_path):
    tensors = tensors_of(given)
    removed = {name: array for name, array in tensors.items() if name != "neck.fpn_convs.1.conv.bias"}
    more = removed | {"roi_head.semantic_head.weight": np.zeros((2, 2), np.float32)}
    path = save({"state_dict": more}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"missing neck.fpn_convs.1.conv.bias; not used roi_head.semantic_head.weight$"):
        read_detector(path)
    last = next(name for name in tensors if name.endswith(("fc_cls.weight", "atss_cls.weight")))
    path = save({name: array for name, array in tensors.items() if name != last}, tmp_path / "b.pth")
    title = ARCHITECTURES[given.head.name].title
    expected = (
        rf"b.pth lacks {last}; expected a complete {title} of mmdetection. To use only the backbone, .* --head drop"
    )
    with pytest.raises(UserError, match=expected):
        read_detector(path)


@pytest.mark.parametrize("key", CONFIGS)
def test_the_normalization_of_the_config_belongs_to_the_weights(key, atss, tmp_path):
    tensors, mean, std = tensors_of(atss), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
    for red_first in (True, False):
        meta = {"CLASSES": NAMES, key: CONFIGS[key].format(order=red_first)}
        weights = read_detector(save({"meta": meta, "state_dict": tensors}, tmp_path / f"{red_first}.pth"))
        order = slice(None) if red_first else slice(None, None, -1)
        assert weights.info.preprocessing.normalization == Normalization(mean[order], std[order])
        first = "backbone/patch_embed/proj/kernel"
        expected = named_leaves(atss.params)[first][:, :, order]
        np.testing.assert_array_equal(named_leaves(weights.params)[first], expected)


def test_backbones_with_other_maps_and_files_without_a_detector_are_refused(atss, tmp_path):
    tensors = tensors_of(atss)
    path = save({name.replace("backbone.", "backbone.body."): a for name, a in tensors.items()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"the FocalNet of this detector is backbone.body; expected backbone$"):
        read_detector(path)
    plain = {name.removeprefix("backbone."): a for name, a in tensors.items() if name.startswith("backbone.")}
    path = save(plain, tmp_path / "b.pth")
    assert weights_task(path) == "classification"
    with pytest.raises(UserError, match=r"b.pth contains no detector; expected mmdetection's ATSS, Mask R-CNN"):
        read_detector(path)
    with pytest.raises(UserError, match=r"--to mmdet writes weights of detection, and .* has only a backbone"):
        main([str(path), str(tmp_path / "c.safetensors"), "--to", "mmdet", "--option", "use_postln=false", "--option",
              "normalize_modulator=false"])  # fmt: skip


def test_formats_and_flags_of_other_tasks_are_refused(atss, tmp_path):
    file = tmp_path / "a.safetensors"
    write_detector(atss, file, format="mmdet")
    for format, message in (
        ("timm", "--to timm writes no detectors, and these are weights of detection: use --to mmdet|orbax"),
        ("mmseg", "--to mmseg writes weights of segmentation, and .* has weights of detection"),
    ):
        with pytest.raises(UserError, match=message.replace("|", r"\|")):
            main([str(file), str(tmp_path / "b"), "--to", format])
    with pytest.raises(UserError, match=r"--num-classes is for classifiers, and .* has weights of detection"):
        main([str(file), str(tmp_path / "b"), "--to", "orbax", "--num-classes", "3"])
    with pytest.raises(UserError, match=r"--to mmdet writes a .pth or .safetensors file"):
        main([str(file), str(tmp_path / "b"), "--to", "mmdet"])
    parts = random_detector("atss", use_conv_embed=True, use_postln=True, use_layerscale=True)
    with pytest.raises(UserError, match=r"has no use_postln, .* mmdetection could not load the file: use --to orbax"):
        write_detector(parts, tmp_path / "c.safetensors", format="mmdet")
    write_detector(parts, tmp_path / "step", format="orbax")
    assert_same(tmp_path / "step", parts)


def test_the_backbone_alone_is_taken_with_a_dropped_head(given, tmp_path):
    file, plain = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_detector(given, file, format="mmdet")
    flags = ["--option", "use_postln=false", "--option", "normalize_modulator=false"]
    assert main([str(file), str(plain), "--to", "microsoft", "--head", "drop", *flags]) == 0
    found = named_leaves(read_weights(plain).params)
    expected = named_leaves(given.params)
    assert len([name for name in found if name.startswith("stages/")]) > 10
    for name, array in found.items():
        whole = name.replace("norm/", "output_norms/3/") if name.startswith("norm/") else name
        np.testing.assert_array_equal(array, expected[f"backbone/{whole}"], err_msg=name)


def shapes_of(config, head):
    """Returns shapes of the model's variables with a sharding, as the trainer has them."""
    from types import SimpleNamespace

    from flax import nnx

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    _, *parts = nnx.split(abstract_detector(config, head), nnx.Param, ...)
    placed = [
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), nnx.to_pure_dict(each))
        for each in parts
    ]
    return SimpleNamespace(params=placed[0], statistics=placed[1])


LAST = {
    "atss": "bbox_head.atss_cls",
    "mask_rcnn": "roi_head.bbox_head.fc_cls, roi_head.bbox_head.fc_reg, roi_head.mask_head.conv_logits",
    "cascade_mask_rcnn": "roi_head.bbox_head.*.fc_cls, roi_head.bbox_head.*.fc_reg, roi_head.mask_head.*.conv_logits",
    "sparse_rcnn": "roi_head.bbox_head.*.fc_cls",
}


def test_runs_start_from_a_file_with_all_layers_or_all_but_the_last(given, tmp_path):
    file = tmp_path / "a.safetensors"
    write_detector(given, file, format="mmdet")
    name = given.head.name
    like = shapes_of(given.config, given.head)
    for options in ({}, {"evaluated": True}):
        loaded = load_detector(str(file), given.config, given.head, like, **options)
        found = named_leaves(loaded.params) | named_leaves(loaded.statistics)
        expected = named_leaves(given.params) | named_leaves(given.statistics)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
    five = dataclasses.replace(given.config, num_classes=5)
    with pytest.raises(UserError, match=r"the weights have 3 classes, the model 5: give .*init_head=drop"):
        load_detector(str(file), five, given.head, like)
    loaded = load_detector(str(file), five, given.head, shapes_of(five, given.head), init="drop")
    left = named_leaves(given.params).keys() - named_leaves(loaded.params).keys()
    assert {layer.rpartition("/")[0] for layer in left} == {
        layer.replace(".", "/").replace("*", str(stage))
        for layer in LAST[name].split(", ")
        for stage in range({"cascade_mask_rcnn": 3, "sparse_rcnn": 6}.get(name, 1))
    }
    assert f"new last layers ({LAST[name]}) for 5 classes" in loaded.source
    wider = dataclasses.replace(given.head, channels=2 * given.head.channels)
    with pytest.raises(UserError, match=r"head.channels is \d+ in the weights and \d+ in the model: give --config"):
        load_detector(str(file), given.config, wider, like)


def test_a_file_is_loaded_as_a_model_and_as_a_predictor(given, tmp_path):
    file = tmp_path / "a.safetensors"
    info = WeightsInfo(classes=NAMES, box=(96, 64))
    write_detector(dataclasses.replace(given, info=info), file, format="mmdet")
    assert type(load_model(file)) is ARCHITECTURES[given.head.name].build
    with pytest.raises(UserError, match="has weights of detection, whose num_classes cannot be replaced"):
        load_model(file, num_classes=5)
    predictor = load_predictor(file)
    assert predictor.labels == NAMES
    assert predictor.options.box == (96, 64)


def test_the_card_names_the_detector_and_the_task(given):
    card = model_card(given, parse_address("hf://me/boxes"), "mmdet", "weights.pth", None, "mit")
    title = ARCHITECTURES[given.head.name].title
    assert f"{title} with FocalNet ([Focal Modulation Networks]" in card
    assert "pipeline_tag: object-detection" in card
    assert "in the format of mmdetection" in card
    assert "load_file(hf_hub_download" in card
