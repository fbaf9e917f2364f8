"""Shapes of images and of their predictions in evaluation and inference. This module does not import JAX."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ml_collections import FrozenConfigDict

from focalnet_jax.data.geometry import fitted_size
from focalnet_jax.data.preprocessing import IMAGENET, Normalization, from_config
from focalnet_jax.errors import UserError

Size = tuple[int, int]  # height and width in pixels
_ZOOMS = 4  # sizes of canvases per factor of 2; a canvas has at most 2^(2/4) = 1.41 times the pixels of its image


@dataclass(frozen=True)
class Inference:
    """Options of inference on images of any size. Except for `multiple`, the defaults are the original's.

    Attributes:
      mode: "whole": the model processes whole images; "slide": windows, whose logits are averaged where they overlap.
      crop: largest height and width of a window.
      stride: distance of the windows down and to the right.
      scales: ratios by which `box` is multiplied. Probabilities are averaged over the scales.
      flip: whether probabilities are also averaged over the image and its mirror image.
      box: long and short side of the box that an image is resized to fit into.
      multiple: sides of resized images are rounded to multiples of this number, so that few programs are compiled.
      normalization: normalization of the images.
    """

    mode: str = "whole"
    crop: Size = (512, 512)
    stride: Size = (341, 341)
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    box: tuple[int, int] = (2048, 512)
    multiple: int = 32
    normalization: Normalization = IMAGENET

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images of a batch, one per scale: `image`, `image/1`, ..."""
        return ("image", *(f"image/{number}" for number in range(1, len(self.scales))))

    def sizes(self, height: int, width: int) -> tuple[Size, ...]:
        """Returns the sizes that an image of `height` x `width` pixels is resized to, one per scale.

        With a multiple of 1, the sizes equal those of mmsegmentation 0.x: the box is multiplied by a scale and rounded
        down, and the image is resized to fit into it. Otherwise, the size at scale 1 is rounded to the nearest
        multiples. The sizes at other scales are computed from the rounded size, so that more scales do not mean more
        combinations of sizes.
        """
        boxes = [(int(self.box[0] * scale), int(self.box[1] * scale)) for scale in self.scales]
        if self.multiple == 1:
            return tuple(fitted_size(height, width, box) for box in boxes)
        sides = [self._rounded(side) for side in fitted_size(height, width, self.box)]
        return tuple(tuple(self._rounded(side * scale) for side in sides) for scale in self.scales)

    def _rounded(self, side: float) -> int:
        return max(1, math.floor(side / self.multiple + 0.5)) * self.multiple

    def canvas(self, height: int, width: int) -> Size:
        """Returns the height and width of the array for the predictions of an image of `height` x `width` pixels.

        The sides of the array are those of the first resized image plus half of `multiple`, multiplied by the smallest
        power of 2^(1/4) with which the prediction fits into the array.
        """
        first = [side + self.multiple / 2 for side in self.sizes(height, width)[0]]
        zoom = max(height / first[0], width / first[1])
        zoom = 2 ** (math.ceil(_ZOOMS * math.log2(zoom) - 1e-9) / _ZOOMS)
        sides = [math.ceil(side * zoom - 1e-6) for side in first]
        return max(sides[0], height), max(sides[1], width)

    def shape(self, height: int, width: int) -> tuple[Size, ...]:
        """Returns the shapes of the arrays of an image: of the canvas, then of the resized images."""
        return self.canvas(height, width), *self.sizes(height, width)


def inference_of(config: FrozenConfigDict) -> Inference:
    """Returns the options of inference in a config.

    Raises:
      UserError: windows are further apart than they are large, so that they would not cover the image.
    """
    keys = config.inference
    if keys.mode == "slide" and any(step > side for step, side in zip(keys.stride, keys.crop, strict=True)):
        raise UserError(
            f"inference.stride={tuple(keys.stride)} is larger than inference.crop={tuple(keys.crop)}, so windows would "
            "leave out parts of the image: give a stride of at most the crop"
        )
    return Inference(
        keys.mode,
        tuple(keys.crop),
        tuple(keys.stride),
        tuple(keys.scales),
        keys.flip,
        tuple(keys.box or config.augment.box),
        keys.multiple,
        from_config(config.data).normalization,
    )
