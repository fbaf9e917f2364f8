"""Pretrains FocalNet on ImageNet-22K (21842 outputs).

Source: the authors published 224 px, the flags of the architecture, drop path 0.5 and 21842 outputs. All other
    settings are not public. Here they are those of Swin (arXiv 2103.14030, section 4.1), which the FocalNet paper says
    it follows: 90 epochs with 5 epochs of warm-up, batch size 4096, learning rate 1e-3, weight decay 0.05, and the
    augmentation of imagenet1k.py.
Variants: any model, large_fl4 (default); smoke.
Command: python train.py --config configs/imagenet22k.py:large_fl4 --workdir DIR --config.data.path=IMAGENET22K
    where IMAGENET22K is the data set that python -m focalnet_jax.data.prepare imagenet22k wrote from the release's
    tar: classes in the order of the released 22K classifiers, one percent of the images held out as val.
Hardware: any; the batch is divided among all devices. Cost: not measured.
Target: none published for the pretraining itself.
Obtained: not run yet.
"""

from focalnet_jax.config import REQUIRED, default_config
from focalnet_jax.recipes import parse_variant, shrink_to_smoke


def get_config(variant: str = ""):
    model, options = parse_variant(variant, ["smoke"], model="focalnet_large_fl4")
    config = default_config()
    config.model.name = model
    config.model.num_classes = 21842
    config.model.drop_path_rate = 0.5
    config.precision = "auto"
    config.batch_size = 4096
    config.total_epochs = 90.0
    config.schedule.learning_rate = 1e-3
    config.schedule.min_learning_rate = 1e-5
    config.schedule.warmup_learning_rate = 1e-6
    config.schedule.warmup_epochs = 5.0
    config.data.source = "tfds"
    config.data.path = REQUIRED
    config.data.image_size = 224
    config.augment.policy = "rand-m9-mstd0.5-inc1"
    config.augment.erase = 0.25
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.augment.label_smoothing = 0.1
    config.eval_every_epochs = 1.0
    if "smoke" in options:
        shrink_to_smoke(config)
    return config
