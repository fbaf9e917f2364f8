"""Files of class names are read in all common formats; others are one-line errors."""

import pytest

from focalnet_jax.data.class_files import read_classes
from focalnet_jax.errors import UserError


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\n",
        "cat\r\ndog\r\n\r\n",
        '["cat", "dog"]',
        '{"0": "cat", "1": "dog"}',
        '{"1": "dog", "0": "cat"}',
        '{"model_type": "focalnet", "id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}',
        '{"dog": 1, "cat": 0}',
        "{0: 'cat',\n 1: 'dog'}",
        "\ufeffcat\ndog",
    ],
)
def test_lists_of_classes_are_read_as_people_have_them(tmp_path, content):
    (tmp_path / "classes").write_text(content)
    assert read_classes(tmp_path / "classes") == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [
        "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n",
        "n01440764 tench, Tinca tinca\nn01443537 goldfish\n",
        "n01440764\nn01443537\n",
        '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}',
    ],
)
def test_classes_with_a_synset_id_are_called_by_it(tmp_path, content):
    (tmp_path / "classes").write_text(content)
    assert read_classes(tmp_path / "classes") == ("n01440764", "n01443537")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "contains no classes"),
        ("cat\n\ndog\n", "line 2 of .* is empty"),
        ('["cat", 3]', "'3' is not a class name"),
        ('["cat", "\\ud800"]', r"'\\ud800' is not a class name"),
        ('{"0": "cat", "2": "dog"}', "without gaps"),
        ('{"0": "cat", "zero": "dog"}', "without gaps"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[__import__('os').system('true')]", "is not valid JSON"),
        (b"\xff\xfe", "not text in UTF-8"),
        ('{"cat", "dog"}', "is not valid JSON"),
        ('{"cat", 3}', "is not valid JSON"),
        ('["cat"], "dog"', "is not valid JSON"),
        (f'{{"{"1" * 5000}": "cat"}}', "without gaps"),
        (f'{{"cat": 0x{"f" * 5000}}}', "is not valid JSON"),
        (f'["cat", 0x{"f" * 5000}]', "is not valid JSON"),
    ],
)
def test_files_that_are_no_lists_of_classes_are_refused(tmp_path, content, told):
    path = tmp_path / "classes"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        read_classes(path)


def test_a_list_that_is_not_there_or_too_large_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_classes(tmp_path / "none")
    with pytest.raises(UserError, match="Is a directory"):
        read_classes(tmp_path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**25)
    with pytest.raises(UserError, match="more than 16 MB"):
        read_classes(tmp_path / "large")


def test_lines_that_are_numbered_in_another_order_go_by_their_numbers(tmp_path):
    path = tmp_path / "classes.txt"
    for text in ("2: cow\n0: cat\n1: dog\n", "2 cow\n0 cat\n1 dog", "2,cow\n0,cat\n1,dog\n"):
        path.write_text(text)
        assert read_classes(path) == ("cat", "dog", "cow")
    path.write_text("0 cat\n1 dog\n")
    assert read_classes(path) == ("0 cat", "1 dog")
    for text in ("3 cow\n1 dog\n2 cat\n", "1 cow\n0 dog\n1 cat\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"the numbers of the lines in .* are not 0, 1"):
            read_classes(path)
