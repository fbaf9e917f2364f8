"""Semantic segmentation on ADE20K with FocalNet and UPerNet, the published recipe.

Source: Focal Modulation Networks (arXiv 2203.11926, section 4.2 and table 8) and its code: FocalNet T, S and B with
    window 9, UPerNet with 512 channels, an auxiliary loss of 0.4, AdamW, 160,000 steps of 16 images, stochastic depth
    0.3. Weights: an ImageNet-1K checkpoint, whose focal kernels are padded with zeros to window 9.
Variants: tiny_srf (default), tiny_lrf, small_srf, small_lrf, base_srf, base_lrf; smoke (six steps of a small model on
    composites of digits). large_fl4 is not in the paper: it has the windows of its ImageNet-22K weights (kernels 3, 5,
    7, 9), and crops of 640 like Mask2Former's recipe for large backbones.
Command: python -m focalnet_jax.data.prepare ade20k --source ADEChallengeData2016.zip --out /data/ade20k
    python train.py --config configs/upernet_ade20k.py:base_lrf --workdir runs/upernet --config.data.path=/data/ade20k
    --config.init_from=WEIGHTS
Hardware: any; 8 GPUs in the original. Cost: not measured.
Target: mIoU 46.5, 46.8, 49.3, 49.1, 50.2 and 50.5 in the order of the variants, at one scale; large_fl4 has
    no published value.
Obtained: not trained yet.
"""

from focalnet_jax.config import REQUIRED, default_config
from focalnet_jax.recipes import parse_variant, shrink_to_smoke


def get_config(variant: str = ""):
    name, options = parse_variant(variant, ["smoke"], model="focalnet_tiny_srf")
    config = default_config("segmentation")
    config.model.name = name
    config.model.num_classes = 150
    config.model.focal_windows = 9
    config.model.drop_path_rate = 0.3
    config.batch_size = 16
    config.total_steps = 160_000
    config.init_head = "drop"
    config.init_from = REQUIRED

    config.optimizer.weight_decay = 0.01
    # As in the original, weight decay applies to all parameters except the backbone's norms.
    config.optimizer.weight_decay_scales = (
        ("^backbone/.*norm", 0.0),
        (r"^(?!backbone/.*norm).*/(bias|scale|gamma\d)$", 1.0),
    )
    config.optimizer.clip_norm = 0.0
    config.schedule.name = "poly"
    config.schedule.learning_rate = 6e-5
    config.schedule.min_learning_rate = 0.0
    config.schedule.warmup_learning_rate = 6e-11
    config.schedule.warmup_steps = 1500

    config.data.source = "tfds"
    config.data.path = REQUIRED
    config.data.image_size = 512
    if name == "focalnet_large_fl4":
        config.model.focal_windows = 3
        config.data.image_size, config.augment.box = 640, (2560, 640)
    config.eval_every_steps = config.checkpoint_every_steps = 16_000
    config.log_predictions = 4
    if "smoke" in options:
        shrink_to_smoke(config)
        config.model.num_classes = 11
        config.head.channels = config.head.auxiliary_channels = 16
        config.augment.box = (64, 64)
    return config
