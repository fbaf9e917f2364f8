"""A TFRecord data set becomes one that is read by index."""

import json
import os
import shutil

import pytest
import tensorflow_datasets as tfds
from tensorboardX.record_writer import RecordWriter

from focalnet_jax.data.prepare.tfrecord import convert
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.data.pictures import READABLE
from tests.data.preparing import contents, refused


def test_an_existing_tfrecord_data_set_is_converted_byte_for_byte(from_folders, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(from_folders, old)
    for path in old.glob("*.array_record-*"):
        path.unlink()
    description = json.loads((old / "dataset_info.json").read_text()) | {"fileFormat": "tfrecord"}
    (old / "dataset_info.json").write_text(json.dumps(description))
    source = tfds.builder_from_directory(from_folders)
    form = tfds.core.example_serializer.ExampleSerializer(source.info.features.get_serialized_info())
    for split, info in source.info.splits.items():
        assert info.num_shards == 1
        writer = RecordWriter(str(old / f"images-{split}.tfrecord-00000-of-00001"))
        for example in source.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}):
            writer.write(form.serialize_example(source.info.features.encode_example(example)))
        writer.close()
    with pytest.raises(UserError, match="stored as tfrecord, which cannot be read by index"):
        TfdsSource(str(old), "train")
    folder = convert([old], tmp_path / "new", processes=1)
    for split in READABLE:
        assert contents(folder, split) == contents(from_folders, split)
    convert([old], tmp_path / "new", processes=1)  # already finished
    shard = old / "images-val.tfrecord-00000-of-00001"
    content = shard.read_bytes()
    status = shard.stat()
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # a different file of the same size
    with pytest.raises(UserError, match="belongs to another preparation: times was"):
        convert([old], tmp_path / "new", processes=1)
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    (names,) = old.glob("*.labels.txt")
    listed = names.read_text()
    names.write_text("\n".join(listed.split()[::-1]))
    with pytest.raises(UserError, match="belongs to another preparation: features was"):
        convert([old], tmp_path / "new", processes=1)
    names.write_text(listed)
    card = folder / "card.json"
    before = json.loads(card.read_text())
    older = before | {"asked": {key: before["asked"][key] for key in ("name", "version", "sources")}}
    card.write_text(json.dumps(older))
    convert([old], tmp_path / "new", processes=1)  # an older card lacks the newer keys
    card.write_text(json.dumps(before))
    for place in (3, 9, 500):  # the length of a record, its checksum, the record
        shard.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(UserError, match="a checksum does not match"):
            convert([old], tmp_path / "other", processes=1)
    shard.write_bytes(content)
    assert contents(convert([old], tmp_path / "other", processes=1), "val") == contents(from_folders, "val")
    shard.write_bytes(content[:-10])
    with pytest.raises(UserError, match="truncated"):
        convert([old], tmp_path / "short", processes=1)
    with pytest.raises(UserError, match="belongs to another preparation: sources was"):
        convert([old], tmp_path / "new", processes=1)
    shard.unlink()
    with pytest.raises(UserError, match=r"cannot read .*images-val.tfrecord"):
        convert([old], tmp_path / "none", processes=1)
    refused("--source /nowhere: there is no such file or folder", "tfrecord", "--source", "/nowhere", "--out", tmp_path)
    refused("--name applies to imagefolder", "tfrecord", "--source", old, "--out", tmp_path, "--name", "x")
