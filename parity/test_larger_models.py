"""Classifiers, normalization layers and pruned weights around timm's FocalNet compute the same as in PyTorch."""

import collections
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import timm.models.focalnet
import torch
from sklearn.datasets import load_sample_image
from torch.nn.utils import parametrizations, prune, weight_norm
from transformers import AutoImageProcessor

import focalnet_jax
from focalnet_jax.convert.weights import read_weights
from focalnet_jax.convert.write import write_weights
from focalnet_jax.data.transforms import eval_transform
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier
from focalnet_jax.model import list_models
from parity.measure import reduced, relative
from parity.pytorch import build
from parity.test_files import UNSTATED
from parity.test_layouts import timm_model

PHOTO = load_sample_image("china.jpg")[:96, :128]
TOLERANCE = 1e-5  # the limit of docs/parity.md: float32 with different orders of summation


class Normalize(torch.nn.Module):
    """A normalization layer like those that users put before a model."""

    def __init__(self, mean, std, names=("mean", "std"), scale=1.0):
        super().__init__()
        self.names, self.scale = names, scale
        for name, values in zip(names, (mean, std), strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images):
        """Normalizes images `[B, 3, H, W]` with values in [0, 1]."""
        mean, std = (getattr(self, name) for name in self.names)
        return (self.scale * images - mean) / std


class Classifier(torch.nn.Module):
    """A backbone, a mean over positions and a classifier, like mmpretrain's."""

    def __init__(self, preprocessor=None):
        super().__init__()
        torch.manual_seed(3)
        self.data_preprocessor = preprocessor or torch.nn.Identity()
        self.backbone = timm_model(num_classes=0)
        self.head = torch.nn.ModuleDict({"fc": torch.nn.Linear(32, 7)})

    def forward(self, images):
        """Returns logits."""
        features = self.backbone.forward_features(self.data_preprocessor(images))
        return self.head["fc"](features.mean(dim=(2, 3)))


def wrapped(module, **layers):
    return torch.nn.Sequential(collections.OrderedDict(**layers, model=module))


MEAN, STD = [0.5, 0.45, 0.4], [0.2, 0.25, 0.3]
LEVELS = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
MODELS = {
    "mmpretrain": lambda: Classifier(),
    "preprocessor": lambda: Classifier(Normalize(*LEVELS, scale=255.0)),
    "sequential": lambda: torch.nn.Sequential(Normalize(MEAN, STD), timm_model()),
    "robustbench": lambda: wrapped(timm_model(), normalizer=Normalize(MEAN, STD, ("new_mean", "new_std"))),
    "both": lambda: torch.nn.Sequential(Normalize(MEAN, STD), Classifier()),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_surrounds_a_backbone_is_computed_as_torch_does(name, tmp_path):
    model = MODELS[name]().eval()
    torch.save({"state_dict": model.state_dict(), "meta": {"epoch": 1}}, tmp_path / "file.pth")
    with pytest.warns(UserWarning, match="taken as the classifier|the file normalizes images with"):
        ours = load_classifier(tmp_path / "file.pth", options=UNSTATED, image_size=64)
    pixels = torch.from_numpy(np.array(ours.transform(PHOTO))).permute(2, 0, 1)[None].float() / 255
    if name == "mmpretrain":  # images are normalized before the model, because its weights do not contain the mean
        pixels = (pixels - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
    with torch.no_grad():
        expected = model(pixels).numpy()
    assert expected.shape == (1, 5 if name in ("sequential", "robustbench") else 7)
    assert relative(ours.logits([PHOTO]), expected) < TOLERANCE


def test_the_model_of_robustness_is_held_twice_and_read_once(tmp_path):
    model, layer = timm_model(), Normalize(MEAN, STD, ("new_mean", "new_std"))
    attacker = torch.nn.ModuleDict({"normalize": layer, "model": model})
    whole = torch.nn.ModuleDict({"normalizer": layer, "model": model, "attacker": attacker})
    torch.save({"model": torch.nn.DataParallel(whole).state_dict()}, tmp_path / "file.pth")
    weights = read_weights(tmp_path / "file.pth", options=UNSTATED)
    assert weights.info.follow().normalization.mean == tuple(MEAN)
    np.testing.assert_array_equal(weights.params["norm"]["bias"], model.norm.bias.detach().numpy())


def test_pruned_weights_are_those_that_torch_computes_with(tmp_path):
    model = timm_model()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    for module in layers:
        prune.random_unstructured(module, "weight", amount=0.4)
    torch.save(model.state_dict(), tmp_path / "file.pth")
    weights = read_weights(tmp_path / "file.pth", options=UNSTATED)
    assert f"{len(layers)} pruned tensors multiplied by their masks" in weights.notes
    for module in layers:
        prune.remove(module, "weight")
    torch.save(model.state_dict(), tmp_path / "removed.pth")
    np.testing.assert_array_equal(
        weights.params["head"]["kernel"],
        read_weights(tmp_path / "removed.pth", options=UNSTATED).params["head"]["kernel"],
    )
    np.testing.assert_array_equal(weights.params["head"]["kernel"], model.head.fc.weight.detach().numpy().T)


@pytest.mark.filterwarnings("ignore")  # torch's deprecation warnings
def test_weights_that_torch_stores_otherwise_are_named_by_their_kind(tmp_path):
    def changed(change):
        model = timm_model()
        change(model)
        return model.state_dict()

    files = {
        "weight_norm": (changed(lambda model: weight_norm(model.head.fc)), "weight_norm"),
        "new_weight_norm": (changed(lambda model: parametrizations.weight_norm(model.head.fc)), "weight_norm"),
        "spectral_norm": (changed(lambda model: torch.nn.utils.spectral_norm(model.stem.proj)), "spectral_norm"),
        "orthogonal": (changed(lambda model: parametrizations.orthogonal(model.head.fc)), "parametrization"),
        "optimizer": (torch.optim.AdamW(timm_model().parameters()).state_dict(), "optimizer state"),
    }
    quantized = torch.quantization.quantize_dynamic(timm_model(), {torch.nn.Linear})
    files["quantized"] = quantized.state_dict(), "quantized weights"
    for name, (content, expected) in files.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=expected):
            read_weights(tmp_path / name, options=UNSTATED)


@pytest.mark.parametrize("name", [name for name in list_models() if "iso" not in name])
def test_a_timm_directory_without_arguments_computes_what_timm_does(name, tmp_path, monkeypatch):
    def small(variant, pretrained=False, **options):
        # the variant's options, with fewer channels and blocks
        return timm.models.focalnet.FocalNet(**(options | dict(embed_dim=16, depths=(1, 1, 2, 1), num_classes=5)))

    monkeypatch.setattr(timm.models.focalnet, "_create_focalnet", small)
    torch.manual_seed(0)
    model = getattr(timm.models.focalnet, name)().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 5}))
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    ours = focalnet_jax.load_model(tmp_path)
    assert not ours.config.normalize_modulator
    assert relative(np.asarray(ours(jnp.asarray(images))), expected) < TOLERANCE


PROCESSORS = {
    "shorter": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 72}, "crop_size": 64},
    "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 48}, "crop_pct": 0.875},
    "stretched": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(48, 80), (80, 48), (64, 64)])
def test_another_size_of_a_processor_is_written_as_both_read_it_or_not_at_all(name, size, tmp_path):
    config = reduced("focalnet_tiny_srf")
    torch.save(build(config, "transformers").state_dict(), tmp_path / "file.pth")
    write_weights(read_weights(tmp_path / "file.pth", options=UNSTATED), tmp_path / "a", format="huggingface")
    stated = PROCESSORS[name] | {"image_mean": MEAN, "image_std": STD, "resample": 2}
    (tmp_path / "a" / "preprocessor_config.json").write_text(json.dumps(stated))
    weights = read_weights(tmp_path / "a")
    wanted = weights.info.follow().at(size)
    report = write_weights(weights, tmp_path / "b", format="huggingface", image_size=size)
    found = read_weights(tmp_path / "b").info.follow()
    ours = eval_transform(found)(PHOTO)
    np.testing.assert_array_equal(ours, eval_transform(wanted)(PHOTO))
    assert found.normalization == wanted.normalization
    if name != "stretched" and size[0] != size[1]:
        assert any("transformers has no processor" in note for note in report.notes)
        with pytest.raises(OSError, match="preprocessor"):
            AutoImageProcessor.from_pretrained(tmp_path / "b")
        return
    processor = AutoImageProcessor.from_pretrained(tmp_path / "b", backend="pil")
    theirs = processor(PHOTO, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    # float32 values of about 1: see parity/test_preprocessing.py
    np.testing.assert_allclose((ours / np.float32(255) - np.float32(MEAN)) / np.float32(STD), theirs, atol=1e-6)
