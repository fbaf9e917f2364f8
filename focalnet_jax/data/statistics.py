"""Mean and standard deviation of ImageNet's RGB values in [0, 1], which all published FocalNets use."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
