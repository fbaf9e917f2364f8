"""Labels with unusual characters are used as names or named in an error, and never cause a traceback."""

import pytest

from focalnet_jax.data.prepare.val_labels import read_val_labels
from focalnet_jax.errors import UserError
from tests.data.layouts import write_parquet
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def shard(path, *samples):
    """Writes a shard with one image per sample; a sample is a dict of the other files by suffix."""
    files = {}
    for number, sample in enumerate(samples):
        files[f"{number:04d}.jpg"] = picture(number)
        files |= {f"{number:04d}{suffix}": content for suffix, content in sample.items()}
    return write_tar(path, files)


@pytest.mark.parametrize("labels", [("\u2460", "\u2461"), ("\xb2", "\xb3"), ("--5", "-"), ("5-", "-" * 8 + "1")])
def test_labels_that_resemble_numbers_are_names(labels, tmp_path):
    source = shard(tmp_path / "train-0.tar", *({".cls": label.encode()} for label in labels))
    assert prepared(tmp_path / "shard", "webdataset", "--source", source)[1] == {"train": dict.fromkeys(labels, 1)}
    rows = [(f"{number}.jpg", picture(number), label) for number, label in enumerate(labels)]
    source = write_parquet(tmp_path / "train.parquet", rows)
    assert prepared(tmp_path / "rows", "parquet", "--source", source)[1] == {"train": dict.fromkeys(labels, 1)}


@pytest.mark.parametrize("number", ["\u2460", "\xb2", "\u0663", "1" * 5000])
@pytest.mark.parametrize("line", ["a.JPEG {}", "{}"])
def test_label_lists_with_numbers_in_other_characters_or_of_many_digits_are_refused(number, line, tmp_path):
    (tmp_path / "list.txt").write_text(f"{line.format(number)}\n" * 2)
    with pytest.raises(UserError, match="expected an ImageNet-1K synset"):
        read_val_labels(tmp_path / "list.txt")


@pytest.mark.parametrize("text", ["ImageId,PredictionString\n", "filename", "synset\n\n"])
def test_a_label_list_with_only_a_header_is_empty(text, tmp_path):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match="is empty"):
        read_val_labels(tmp_path / "list.csv")


@pytest.mark.parametrize(
    "json", [rb'{"label": "\ud800"}', rb'{"label": "cat", "filename": "\udc00.jpg"}', b'{"label": "\xed\xa0\x80"}']
)
def test_a_json_with_half_a_surrogate_pair_labels_nothing(json, tmp_path):
    good = ({".json": b'{"label": "cat"}'}, {".json": rb'{"label": "\ud83d\ude00"}'})
    source = shard(tmp_path / "train-0.tar", *good, {".json": json})
    card, found = prepared(tmp_path / "out", "webdataset", "--source", source)
    assert found == {"train": {"cat": 1, "\U0001f600": 1}}
    assert card["rejected"] == 1
    (path,) = tmp_path.glob("out/images/1.0.0/manifest.jsonl")
    assert '"file": "0002.jpg", "status": "rejected", "reason": "no label"' in path.read_text()
