"""Mean and standard deviation of ImageNet's colours, used by all published FocalNets."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
