"""Sizes from headers are those of the decoded images; batches never mix shapes."""

import io

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.data.decode import decode
from focalnet_jax.data.image_size import image_size, image_sizes
from focalnet_jax.data.loader import ReadOptions, eval_batches
from focalnet_jax.errors import UserError


def encoded(format, orientation=None):
    file, image = io.BytesIO(), Image.fromarray(np.arange(35 * 3, dtype=np.uint8).reshape(5, 7, 3))
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    image.save(file, format, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", [None, 6])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_size_is_that_of_the_decoded_image(format, orientation, tmp_path):
    image = encoded(format, orientation)
    (tmp_path / "image").write_bytes(image)
    assert image_size(image) == image_size(str(tmp_path / "image")) == decode(image).shape[:2]


class Named(list):
    """Examples with names."""

    def name(self, index):
        """Returns the name of an example."""
        return f"image {index}"


def test_an_image_whose_size_cannot_be_read_is_named():
    source = Named([(encoded("PNG"), 0), (b"broken", 0)])
    with pytest.raises(UserError, match=r"cannot read image image 1 \(it is .*\): repair or remove it"):
        image_sizes(source)


class Same:
    """Returns examples unchanged."""

    def eval_example(self, example):
        """Returns an example."""
        return {"value": example}


def test_a_batch_has_examples_of_one_group_and_padding():
    source = Named(np.full((index % 2 + 1,), index) for index in range(7))
    reading = ReadOptions(threads=0)
    read = list(eval_batches(source, Same(), batch_size=2, groups=[[1, 3, 5], [0, 2, 4, 6]], reading=reading))
    assert [(batch["value"][:, 0].tolist(), batch["mask"].tolist()) for batch in read] == [
        ([1, 3], [1, 1]),
        ([5, 0], [1, 0]),
        ([0, 2], [1, 1]),
        ([4, 6], [1, 1]),
    ]


def test_a_shape_that_differs_from_its_group_is_an_error_that_names_the_image():
    source = Named(np.zeros(index + 1) for index in range(2))
    with pytest.raises(UserError, match=r"image 1 has value of the shape \[2\] in a batch of the shape \[1\]"):
        list(eval_batches(source, Same(), batch_size=2, reading=ReadOptions(threads=0)))
