"""Trains FocalNet from scratch on ImageNet-1K.

Source: FocalNet paper (arXiv 2203.11926), section 4.1 and the original code's defaults: 300 epochs with 20
    epochs of warm-up, AdamW, learning rate 1e-3 at a global batch of 1024, cosine per step, gradients clipped at 5;
    RandAugment rand-m9-mstd0.5-inc1, random erasing 0.25, mixup 0.8, cutmix 1.0, label smoothing 0.1; drop path by
    variant. Weight decay is the paper's 0.05. The original's code sets 0.05 but, by mistake, applies it to no
    parameter; as_released does not apply it either.
Variants: any model, tiny_srf (default) to huge_fl4; as_released; smoke. The paper's ablations, such as
    imagenet1k.py:tiny_lrf,no_gates or imagenet1k.py:base_srf,overlapped,deeper:
    table 13, components, on tiny_lrf: additive (the modulator is added to the query), no_gates, no_global_level;
    table 12, other ways to gather context, on tiny_lrf: pooling (a level is the mean of its window);
    table 2, on srf models: overlapped (patches overlap);
    table 3, together with overlapped: deeper (more blocks, fewer channels): tiny 64 channels and 3-3-16-3 blocks,
    small 64 and 4-4-28-4, base 96 and 4-4-28-4.
Command: python train.py --config configs/imagenet1k.py:base_lrf --workdir DIR --config.data.path=IMAGENET
    where IMAGENET contains train/n01440764/*.JPEG ... and val/n01440764/*.JPEG ..., one folder per synset id;
    add --config.data.source=tfds for a data set that python -m focalnet_jax.data.prepare imagenet1k wrote
Hardware: any; the batch is divided among all devices. Cost: not measured.
Target (published top-1, %): tiny 82.1 srf / 82.3 lrf, small 83.4 / 83.5, base 83.7 / 83.9; iso tiny 74.1, small 80.9,
    base 82.4; docs/model.md lists the targets of the ablations.
Obtained: not run yet.
"""

from focalnet_jax.config import REQUIRED, default_config
from focalnet_jax.recipes import VARIATIONS, parse_variant, shrink_to_smoke, vary


def get_config(variant: str = ""):
    model, options = parse_variant(variant, ["as_released", "smoke", *VARIATIONS], model="focalnet_tiny_srf")
    config = default_config()
    config.model.name = model
    config.model.num_classes = 1000
    config.precision = "auto"
    config.batch_size = 1024
    config.total_epochs = 300.0
    config.schedule.learning_rate = 1e-3
    config.schedule.min_learning_rate = 1e-5
    config.schedule.warmup_learning_rate = 1e-6
    config.schedule.warmup_epochs = 20.0
    config.data.source = "folder"
    config.data.path = REQUIRED
    config.data.image_size = 224
    config.augment.policy = "rand-m9-mstd0.5-inc1"
    config.augment.erase = 0.25
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.augment.label_smoothing = 0.1
    config.eval_every_epochs = 1.0
    vary(config, options & VARIATIONS.keys())
    if "as_released" in options:
        config.optimizer.weight_decay = 0.0
    if "smoke" in options:
        shrink_to_smoke(config)
    return config
