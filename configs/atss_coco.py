"""Object detection on COCO with FocalNet and ATSS, the published recipe.

Source: Focal Modulation Networks (arXiv 2203.11926, table 6) and its code: FocalNet-T with the focal windows 11, 9, 9
    and 7, ATSS with a feature pyramid of 256 channels, AdamW, 36 epochs of batches of 16 images with random scales and
    crops, stochastic depth 0.3. Weights: an ImageNet-1K checkpoint, whose focal kernels are padded with zeros.
Variants: tiny_srf, tiny_lrf (default), small_srf, small_lrf, base_srf, base_lrf; smoke (six steps of a small model on
    composites of digits). The paper has only tiny_lrf.
Command: python train.py --config configs/atss_coco.py --workdir runs/atss --config.data.path=COCO
    --config.init_from=WEIGHTS
Hardware: any; 8 GPUs in the original. Cost: not measured.
Target: box AP 49.6 for tiny_lrf.
Obtained: not trained yet.
"""

from focalnet_jax.config import REQUIRED, default_config
from focalnet_jax.model.variants import variant_config
from focalnet_jax.recipes import parse_variant, shrink_to_smoke


def get_config(variant: str = ""):
    name, options = parse_variant(variant, ["smoke"], model="focalnet_tiny_lrf")
    config = default_config("detection")
    config.model.name = name
    config.model.num_classes = 80
    config.model.focal_windows = (11, 9, 9, 7)[: len(variant_config(name).depths)]
    config.model.drop_path_rate = 0.3
    config.batch_size = 16
    config.total_epochs = 36.0
    config.init_head = "drop"
    config.init_from = REQUIRED

    config.optimizer.weight_decay = 0.05
    # As in the original, all parameters are decayed except those of norms, which are recognised by their names.
    config.optimizer.weight_decay_scales = (("norm", 0.0), (r"^(?!.*norm).*/(bias|scale|gamma\d)$", 1.0))
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "step"
    config.schedule.learning_rate = 1e-4
    config.schedule.min_learning_rate = 0.0
    config.schedule.warmup_learning_rate = 1e-7
    config.schedule.warmup_steps = 500

    config.data.source = "coco"
    config.data.path = REQUIRED
    config.data.image_size = (800, 1344)
    config.eval_every_epochs = 1.0
    if "smoke" in options:
        shrink_to_smoke(config)
        config.model.depths = (1, 1, 1)
        config.model.num_classes = 10
        config.head.channels, config.head.convs = 32, 1
        config.data.image_size = (96, 128)
        config.augment.short_sides, config.augment.long_side = (64, 80, 96), 128
        config.augment.crop_short_sides, config.augment.crop_range = (96, 112), (64, 96)
        config.inference.box = (128, 96)
        config.data.min_side = 0
    return config
