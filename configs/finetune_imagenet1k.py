"""Finetunes an ImageNet-22K pretrained FocalNet on ImageNet-1K at 224 or 384 px.

Source: Swin's finetuning (arXiv 2103.14030, section 4.1), which the FocalNet paper follows: 30 epochs, batch
    size 1024, learning rate 4e-5 with a cosine to 1e-6, drop path 0.3, RandAugment and random erasing, no mixup or
    cutmix. The classifier starts from the rows of ImageNet-1K's classes in the 22K classifier (init_head = "remap";
    "drop" starts with a new classifier).
Variants: any model, large_fl4 (default); 384 for 384 px; smoke.
Command: python train.py --config configs/finetune_imagenet1k.py:large_fl4,384 --workdir DIR
    --config.data.path=IMAGENET --config.init_from=PRETRAINING_WORKDIR
Hardware: any; the batch is divided among all devices. Cost: not measured.
Target (published top-1 at 224 / 384, %): none, because the published results start from the released weights.
Obtained: not run yet.
"""

from focalnet_jax.config import REQUIRED, default_config
from focalnet_jax.recipes import parse_variant, shrink_to_smoke


def get_config(variant: str = ""):
    model, options = parse_variant(variant, ["384", "smoke"], model="focalnet_large_fl4")
    config = default_config()
    config.model.name = model
    config.model.num_classes = 1000
    config.model.drop_path_rate = 0.3
    config.precision = "auto"
    config.init_from = REQUIRED
    config.init_head = "remap"
    config.batch_size = 1024
    config.total_epochs = 30.0
    config.schedule.learning_rate = 4e-5
    config.schedule.min_learning_rate = 1e-6
    config.schedule.warmup_learning_rate = 1e-7
    config.schedule.warmup_epochs = 5.0
    config.data.source = "folder"
    config.data.path = REQUIRED
    config.data.image_size = 384 if "384" in options else 224
    config.augment.policy = "rand-m9-mstd0.5-inc1"
    config.augment.erase = 0.25
    config.augment.label_smoothing = 0.1
    config.eval_every_epochs = 1.0
    if "smoke" in options:
        shrink_to_smoke(config)
    return config
