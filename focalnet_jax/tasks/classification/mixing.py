"""Augmentation of a batch on the device: normalization, random erasing, mixup and cutmix, label smoothing.

The operations are those of timm, but the random numbers are not. Each example and each group has its own PRNG key,
derived from the key of the step and the position in the global batch. The result therefore does not depend on the
number of devices. Examples are mixed within groups of a fixed size; timm mixes the examples of one device.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from ml_collections import FrozenConfigDict

from focalnet_jax.data.normalization import normalize
from focalnet_jax.data.preprocessing import IMAGENET, Normalization, from_config
from focalnet_jax.distributed.activations import by_example, everywhere
from focalnet_jax.errors import UserError

_ERASE_AREA = (0.02, 1 / 3)
_ERASE_RATIO = (0.3, 1 / 0.3)
_ERASE_ATTEMPTS = 10

_Drawn = tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]


@dataclass(frozen=True)
class Mixing:
    """Options of random erasing, mixup, cutmix and label smoothing."""

    smoothing: float = 0.0  # label smoothing
    erase: float = 0.0  # probability of erasing an example
    mixup: float = 0.0  # alpha of mixup's Beta(alpha, alpha); 0: no mixup
    cutmix: float = 0.0  # alpha of cutmix's Beta(alpha, alpha); 0: no cutmix
    probability: float = 1.0  # probability that a group is mixed
    switch: float = 0.5  # probability of cutmix if both mixup and cutmix are on
    group: int = 128  # number of examples that share a lambda and are mixed with each other
    # A cut of n pixels ends (n + 1) // 2 after its centre ("timm": timm 1.x), or n // 2 ("original": timm 0.4.12).
    box: str = "timm"
    normalization: Normalization = IMAGENET  # of the images, before all other operations

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0

    def group_size(self, batch_size: int) -> int:
        """Returns the size of a group in a batch of this size.

        Raises:
          UserError: groups of this size do not divide the batch, or their size is odd.
        """
        size = min(self.group, batch_size)
        if self.mixes and (batch_size % size or size % 2):
            divisor = _even_divisor(batch_size, self.group)
            todo = f"set it to a divisor such as {divisor}" if divisor else "choose an even batch_size"
            raise UserError(
                f"augment.mix_group={self.group} does not divide a batch of {batch_size} into groups of even size: "
                f"{todo}"
            )
        return size


def make_mixing(config: FrozenConfigDict) -> Mixing:
    """Returns the `Mixing` options of a config.

    Raises:
      UserError: `augment.mix_group` does not divide `batch_size` into groups of even size.
    """
    augment = config.augment
    mixing = Mixing(
        smoothing=augment.label_smoothing,
        erase=augment.erase,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
        probability=augment.mix_probability,
        switch=augment.mix_switch,
        group=augment.mix_group,
        box=augment.cutmix_box,
        normalization=from_config(config.data).normalization,
    )
    mixing.group_size(config.batch_size)
    return mixing


def _even_divisor(batch_size: int, most: int) -> int | None:
    return max((n for n in range(2, min(batch_size, most) + 1, 2) if batch_size % n == 0), default=None)


def prepare_batch(
    images: jax.Array, labels: jax.Array, num_classes: int, mixing: Mixing, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the inputs of the loss for a batch.

    Args:
      images: images `[B, H, W, 3]` uint8.
      labels: labels `[B]`.
      num_classes: number of classes K.
      mixing: options of the augmentation.
      key: PRNG key of the step.

    Returns:
      Images `[B, H, W, 3]` float32, normalized, and targets `[B, K]` float32 that sum to 1.
    """
    erase_key, mix_key = jax.random.split(key)
    images = normalize(images, mixing.normalization)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), mixing.smoothing)
    if mixing.erase > 0:
        images = random_erase(images, mixing.erase, erase_key)
    if mixing.mixes:
        images, targets = mix(images, targets, mixing, mix_key)
    return by_example(images), by_example(targets)


def _keys(key: jax.Array, count: int) -> jax.Array:
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))


def random_erase(images: jax.Array, probability: float, key: jax.Array) -> jax.Array:
    """Replaces a rectangle of some examples by normal noise: timm's RandomErasing in pixel mode.

    The area is uniform in (0.02, 1/3) of the image, and the aspect ratio log-uniform in (0.3, 1 / 0.3). Ten sizes are
    drawn, and the first that is smaller than the image is used; if none is, nothing is erased.

    Args:
      images: normalized images `[B, H, W, C]`.
      probability: probability of erasing in each example.
      key: PRNG key of the batch.
    """
    height, width = images.shape[1:3]

    def erase(image: jax.Array, key: jax.Array) -> jax.Array:
        erased, *keys = jax.random.split(key, 6)
        draw = (_ERASE_ATTEMPTS,)
        area = jax.random.uniform(keys[0], draw, minval=_ERASE_AREA[0], maxval=_ERASE_AREA[1]) * height * width
        low, high = jnp.log(jnp.array(_ERASE_RATIO))
        ratio = jnp.exp(jax.random.uniform(keys[1], draw, minval=low, maxval=high))
        tall, wide = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits)
        tall, wide = tall[first].astype(int), wide[first].astype(int)
        top = _integer_below(keys[2], height - tall + 1)
        left = _integer_below(keys[3], width - wide + 1)
        inside = _box(height, width, top, top + tall, left, left + wide)
        wanted = fits.any() & (jax.random.uniform(erased) < probability)
        noise = jax.random.normal(keys[4], image.shape, image.dtype)
        return jnp.where((inside & wanted)[..., None], noise, image)

    return jax.vmap(erase)(images, _keys(key, len(images)))


def mix(images: jax.Array, targets: jax.Array, mixing: Mixing, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mixes examples by mixup (arXiv 1710.09412) or cutmix (arXiv 1905.04899).

    In a group of n examples, the examples i and n - 1 - i are mixed. All examples of a group share one lambda.

    Args:
      images: images `[B, H, W, C]`.
      targets: targets `[B, K]`.
      mixing: alphas, probabilities and group size.
      key: PRNG key of the batch.
    """
    size = mixing.group_size(len(images))
    groups = len(images) // size
    height, width = images.shape[1:3]

    def mix_group(images: jax.Array, targets: jax.Array, drawn: _Drawn) -> tuple[jax.Array, jax.Array]:
        lam, cut, box = drawn
        inside, (top, bottom, left, right) = _box(height, width, *box), box
        kept = jnp.where(cut, 1 - (bottom - top) * (right - left) / (height * width), lam)  # weight of the target
        weight = jnp.where(cut, jnp.where(inside, 0.0, 1.0), lam)[..., None]  # weight of each pixel
        return images * weight + images[::-1] * (1 - weight), targets * kept + targets[::-1] * (1 - kept)

    grouped = [array.reshape(groups, size, *array.shape[1:]) for array in (images, targets)]
    # JAX draws from a Beta distribution in a loop. If groups were sharded, each iteration would wait for all devices.
    drawn = jax.vmap(lambda key: _draw(key, mixing, height, width))(everywhere(_keys(key, groups)))
    mixed = jax.vmap(mix_group)(*grouped, jax.tree.map(everywhere, drawn))
    return tuple(array.reshape(-1, *array.shape[2:]) for array in mixed)


def _draw(key: jax.Array, mixing: Mixing, height: int, width: int) -> _Drawn:
    """Returns a group's lambda, whether the group uses cutmix, and top, bottom, left and right of the cut."""
    applied_key, switch_key, mixup_key, cutmix_key, y_key, x_key = jax.random.split(key, 6)
    applied = jax.random.uniform(applied_key) < mixing.probability
    cut = jnp.array(mixing.cutmix > 0)
    if mixing.mixup > 0:
        cut &= jax.random.uniform(switch_key) < mixing.switch
    lam = jax.random.beta(mixup_key, mixing.mixup, mixing.mixup) if mixing.mixup > 0 else 1.0
    side = jnp.sqrt(1 - jax.random.beta(cutmix_key, mixing.cutmix, mixing.cutmix)) if mixing.cutmix > 0 else 0.0
    tall, wide = jnp.floor(height * side).astype(int), jnp.floor(width * side).astype(int)
    further = 1 if mixing.box == "timm" else 0
    y, x = jax.random.randint(y_key, (), 0, height), jax.random.randint(x_key, (), 0, width)
    top, bottom = jnp.maximum(y - tall // 2, 0), jnp.minimum(y + (tall + further) // 2, height)
    left, right = jnp.maximum(x - wide // 2, 0), jnp.minimum(x + (wide + further) // 2, width)
    return jnp.where(applied, lam, 1.0), cut & applied, (top, bottom, left, right)


def _box(height: int, width: int, top: jax.Array, bottom: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """Returns a mask `[H, W]` bool, True inside the rectangle."""
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _integer_below(key: jax.Array, end: jax.Array) -> jax.Array:
    """Returns a uniform integer in [0, end) for a traced `end`."""
    return jnp.minimum((jax.random.uniform(key) * end).astype(int), end - 1)
