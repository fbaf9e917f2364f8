"""Finds tree crowns in aerial images, or nuclei of cells with their masks, in minutes on a CPU.

Source: the pictures and boxes of the package deepforest, see docs/data.md. The recipe is atss_coco.py's with a small
    model and a higher learning rate.
    The variant nuclei uses the picture and masks of the package stardist, and Mask R-CNN.
Variants: none; nuclei; smoke.
Command: pip install --no-deps deepforest==2.1.0 stardist==0.9.2
    python train.py --config configs/detection_quickstart.py --workdir runs/trees
    python train.py --config configs/detection_quickstart.py:nuclei --workdir runs/nuclei
Hardware: any. Cost: 10 minutes of CPU time; nuclei 3.
Target: none published for a model of this size; fresh weights have an AP50 below 1.
Obtained: box AP 10.4 and AP50 34.9 after 700 steps, in one run; its evaluations after step 300 had AP50 34.4 to 38.2.
    nuclei: box AP 56.5, mask AP 53.9 after 300 steps, in one run, on the right quarter of the picture, which is not
    trained on.
"""

from configs import atss_coco, mask_rcnn_coco
from focalnet_jax.recipes import parse_variant


def get_config(variant: str = ""):
    _, options = parse_variant(variant, ["nuclei", "smoke"])
    if "nuclei" in options:
        return _nuclei(mask_rcnn_coco.get_config("smoke"))
    config = atss_coco.get_config("smoke")
    if "smoke" in options:
        return config
    config.model.num_classes = 1
    config.model.embed_dim = 32
    config.model.depths = (1, 2, 2)
    config.model.drop_path_rate = 0.05
    config.head.channels, config.head.convs = 64, 2
    config.data.source = "trees"
    config.data.image_size = (320, 320)
    config.data.threads = 2
    config.augment.short_sides, config.augment.long_side = (224, 256, 288, 320), 320
    config.augment.crop_short_sides, config.augment.crop_range = (256, 320), (192, 256)
    config.inference.box = (320, 320)
    config.batch_size = 8
    config.total_steps, config.schedule.warmup_steps = 700, 50
    config.schedule.learning_rate = 1e-3
    config.schedule.warmup_learning_rate = 1e-6
    config.log_every_steps = 20
    config.eval_every_epochs = None
    config.eval_every_steps = 100
    config.log_predictions = 4
    return config


def _nuclei(config):
    config.model.num_classes = 1
    config.head.hidden = 64
    config.rois.candidates, config.rois.proposals, config.rois.samples = 200, 100, 64
    config.inference.candidates, config.inference.detections = 100, 60
    config.data.source = "nuclei"
    config.data.image_size = (128, 128)
    config.data.max_boxes = 60
    config.augment.short_sides, config.augment.long_side = (96, 112, 128), 128
    config.augment.crop_range = (64, 96)
    config.inference.box = (128, 128)
    config.batch_size = 4
    config.total_steps, config.schedule.warmup_steps = 300, 20
    config.schedule.learning_rate = 1e-3
    config.schedule.warmup_learning_rate = 1e-6
    config.optimizer.clip_norm = 1.0
    config.log_every_steps = 20
    config.eval_every_epochs = None
    config.eval_every_steps = 100
    config.log_predictions = 4
    return config
