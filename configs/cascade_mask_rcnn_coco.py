"""Object detection and instance segmentation on COCO with FocalNet and Cascade Mask R-CNN, the published recipe.

Source: Focal Modulation Networks (arXiv 2203.11926, table 6) and its code: FocalNet-T with the focal windows 11, 9, 9
    and 7, Cascade Mask R-CNN with three stages, AdamW, 36 epochs of batches of 16 images with random scales and crops,
    stochastic depth 0.3. Weights: an ImageNet-1K checkpoint, whose focal kernels are padded with zeros.
Variants: tiny_srf, tiny_lrf (default), small_srf, small_lrf, base_srf, base_lrf; smoke (six steps of a small model on
    composites of digits). The paper has only tiny_lrf.
Command: python train.py --config configs/cascade_mask_rcnn_coco.py --workdir runs/cascade --config.data.path=COCO
    --config.init_from=WEIGHTS
Hardware: any; 8 GPUs in the original. Cost: not measured.
Target: box AP 51.5 for tiny_lrf.
Obtained: not trained yet.
"""

from configs import atss_coco, mask_rcnn_coco


def get_config(variant: str = ""):
    smoke = variant == "smoke"
    config = mask_rcnn_coco.get_config(variant) if smoke else atss_coco.get_config(variant)
    config.head.name, config.head.convs = "cascade_mask_rcnn", None
    return config
