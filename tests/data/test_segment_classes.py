"""Lists of segmentation classes are read with their colours."""

import numpy as np
import pytest

from focalnet_jax.data.masks import MaskCoding
from focalnet_jax.data.segment_classes import ade20k_classes, read_segment_classes
from focalnet_jax.errors import UserError


def read(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    return read_segment_classes(tmp_path / "classes.txt")


def test_a_list_without_colours_has_names(tmp_path):
    classes = read(tmp_path, "traffic light\nroad\n")
    assert (classes.names, classes.palette, classes.ignored) == (("traffic light", "road"), None, ())
    assert classes.coding(True) == MaskCoding(2, reduce_zero_label=True)
    assert read(tmp_path, '["a", "b"]').names == ("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "traffic light 250 170 30\nroad 1 2 3\nignored 0 0 0\n",
        "traffic light, 250, 170, 30\nroad, 1, 2, 3\nignored, 0, 0, 0\n",
        "name,r,g,b\ntraffic light,250,170,30\nroad,1,2,3\nignored,0,0,0",  # CamVid's class_dict.csv
        "250 170 30\ttraffic light\n1 2 3\troad\n0 0 0\tignored\n",  # CamVid's label_colors.txt
    ],
)
def test_colours_are_read_before_or_after_the_names(tmp_path, text):
    classes = read(tmp_path, text)
    assert classes.names == ("traffic light", "road")
    np.testing.assert_array_equal(classes.palette, [(250, 170, 30), (1, 2, 3)])
    assert classes.coding(False) == MaskCoding(2, False, ((250, 170, 30), (1, 2, 3)), ((0, 0, 0),))


def test_colours_that_are_not_unique_only_serve_to_draw(tmp_path):
    classes = read(tmp_path, "a 1 2 3\nb 1 2 3\n")
    assert classes.palette.shape == (2, 3)
    assert classes.coding(False) == MaskCoding(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a 1 2 3\nb\n",
            "'b' has no colour with numbers from 0 to 255; expected one class per line, NAME, or NAME RED",
        ),
        ("a 1 2 3\nb 1 2 256\n", "'b 1 2 256' has no colour"),
        ("a\na\n", "expected each class once; a is repeated"),
        ("a 1 2 3\na 4 5 6\n", "expected each class once; a is repeated"),
        ("ignored 1 2 3\n", "contains no classes"),
        ("", "contains no classes"),
        ("".join(f"class{number}\n" for number in range(255)), "has 255 classes; at most 254 are supported"),
        ("a\n\nb\n", "line 2 of .* is empty"),
    ],
)
def test_a_mistake_in_a_list_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the classes in .*no.txt: No such file"):
        read_segment_classes(tmp_path / "no.txt")


def test_the_list_of_ade20k_is_that_of_sceneparse150():
    classes = read_segment_classes("ade20k")
    assert classes is ade20k_classes()
    assert (len(classes.names), classes.palette.shape) == (150, (150, 3))
    assert (classes.names[0], classes.names[12], classes.names[149]) == ("wall", "person", "flag")
    assert len(set(classes.names)) == 150
    assert classes.coding(True) == MaskCoding(150, reduce_zero_label=True)
