"""Object detection on COCO with FocalNet and Sparse R-CNN, the published recipe.

Source: Focal Modulation Networks (arXiv 2203.11926, table 6) and its code: FocalNet-T with the focal windows 11, 9, 9
    and 7, Sparse R-CNN with 300 learned proposals and six stages, AdamW, 36 epochs of batches of 16 images with random
    scales and crops, stochastic depth 0.3, float32. Weights: an ImageNet-1K checkpoint, whose focal kernels are padded
    with zeros.
Variants: tiny_srf, tiny_lrf (default), small_srf, small_lrf, base_srf, base_lrf; smoke (six steps of a small model on
    composites of digits). The paper has only tiny_lrf.
Command: python train.py --config configs/sparse_rcnn_coco.py --workdir runs/sparse_rcnn --config.data.path=COCO
    --config.init_from=WEIGHTS
Hardware: any; 8 GPUs in the original. Cost: not measured.
Target: box AP 49.9 for tiny_lrf.
Obtained: not trained yet.
"""

from configs import atss_coco


def get_config(variant: str = ""):
    config = atss_coco.get_config(variant)
    config.head.name = "sparse_rcnn"
    config.head.convs = None
    config.precision = "float32"
    config.schedule.learning_rate = 2.5e-5
    # As in the original, all parameters are decayed.
    config.optimizer.weight_decay = 1e-4
    config.optimizer.weight_decay_scales = ((r"/(bias|scale|gamma\d|init_proposal_\w+)$", 1.0),)
    config.optimizer.clip_norm = 1.0
    if variant == "smoke":
        config.schedule.learning_rate = 1e-3
        config.head.proposals, config.head.hidden = 20, 32
    return config
