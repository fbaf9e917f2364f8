"""Object detection and instance segmentation on COCO with FocalNet and Mask R-CNN, the published recipe.

Source: Focal Modulation Networks (arXiv 2203.11926, tables 4 and 5) and its code: FocalNet T, S and B with window 9,
    Mask R-CNN with a feature pyramid of 256 channels, AdamW, 12 or 36 epochs of batches of 16 images with random scales
    and crops. Weights: an ImageNet-1K checkpoint, whose focal kernels are padded with zeros to window 9.
Variants: tiny_srf (default), tiny_lrf, small_srf, small_lrf, base_srf, base_lrf; with 3x for 36 epochs instead of 12;
    with deeper for the deeper and narrower models (12 epochs); smoke (six steps of a small model on composites of
    digits).
Command: python train.py --config configs/mask_rcnn_coco.py:base_lrf --workdir runs/mask_rcnn --config.data.path=COCO
    --config.init_from=WEIGHTS
Hardware: any; 8 or 16 GPUs in the original. Cost: not measured.
Target: box AP and mask AP
    12 epochs: tiny_srf 45.9, 41.3; tiny_lrf 46.1, 41.5; small_srf 48.0, 42.7; small_lrf 48.3, 43.1; base_srf 48.8,
    43.3; base_lrf 49.0, 43.5.
    36 epochs: tiny_srf 47.6, 42.6; tiny_lrf 48.0, 42.9; small_srf 48.9, 43.6; small_lrf 49.3, 43.8; base_srf 49.6,
    44.1; base_lrf 49.8, 44.1.
Obtained: not trained yet.
"""

from configs import atss_coco
from focalnet_jax.recipes import parse_variant, vary

# Stochastic depth of the last block.
_DROP_PATH = {"tiny": 0.1, "small": 0.2, "base": 0.3}
_DROP_PATH_3X = {"tiny": 0.3, "small": 0.5, "base": 0.5}
_DROP_PATH_DEEPER = {"tiny": 0.2, "small": 0.2, "base": 0.3}


def get_config(variant: str = ""):
    name, options = parse_variant(variant, ["3x", "deeper", "smoke"], model="focalnet_tiny_srf")
    size = name.removeprefix("focalnet_").partition("_")[0]
    config = atss_coco.get_config("smoke" if "smoke" in options else name)
    config.head.name = "mask_rcnn"
    config.head.convs = None
    rates = _DROP_PATH_DEEPER if "deeper" in options else _DROP_PATH_3X if "3x" in options else _DROP_PATH
    config.model.drop_path_rate = rates.get(size, 0.3)
    if "smoke" in options:
        config.head.hidden = 32
        config.rois.candidates, config.rois.proposals, config.rois.samples = 100, 50, 32
        config.inference.candidates = 50
        return config
    config.model.focal_windows = 9
    config.total_epochs = 36.0 if "3x" in options else 12.0
    vary(config, options & {"deeper"})
    return config
