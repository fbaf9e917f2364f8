"""Object detection: FocalNet with the heads, losses and evaluation of mmdetection."""
