"""Runs `data.prepare` and reads the prepared data sets."""

import hashlib
import io
import json
import signal
import tarfile
import time
from collections import Counter

import pytest

from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError
from tests.commands import run, start

SMALL = ["--processes", "2", "--shard-mb", "1"]


def prepare(*arguments):
    """Runs `python -m focalnet_jax.data.prepare`."""
    return run("-m", "focalnet_jax.data.prepare", *arguments)


def killed(folder, pattern, *arguments):
    """Starts a preparation and kills it as soon as the folder contains a file that matches `pattern`."""
    process = start("-m", "focalnet_jax.data.prepare", *arguments)
    deadline = time.monotonic() + 60
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def refused(message, *arguments):
    """Prepares with a mistake; asserts that the error reports it."""
    with pytest.raises(UserError) as caught:
        main(list(map(str, arguments)))
    assert message in str(caught.value), caught.value


def share(name):
    """Returns the position in [0, 1) of an image when a fraction is held out, as documented."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") / 2**32


def contents(folder, split):
    """Returns the digest of every image by file name, and the number of images by class."""
    source = TfdsSource(str(folder), split)
    examples = [source.records[index] for index in range(len(source))]
    digests = {example["file_name"].decode(): hashlib.sha256(example["image"]).hexdigest() for example in examples}
    assert len(digests) == len(source)  # names are unique
    return digests, Counter(source.class_names[label] for _, label in (source[index] for index in range(len(source))))


def write_tar(path, files):
    """Writes a tar with these names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def in_process(monkeypatch):
    """Makes `data.prepare` run in this process: new processes take seconds to start, and are tested elsewhere."""

    def run_all(function, arguments, processes, report):
        for done, given in enumerate(arguments, 1):
            report(done, function(*given))

    monkeypatch.setattr("focalnet_jax.data.prepare.preparation.run_all", run_all)


def prepared(out, kind, *arguments):
    """Prepares in this process; returns the card, and the number of images by class in each split."""
    assert main([kind, *map(str, arguments), "--out", str(out), "--processes", "1"]) == 0
    (path,) = out.glob("*/1.0.0/card.json")
    card = json.loads(path.read_text())
    examples = sum(split["examples"] for split in card["splits"].values())
    assert examples + card["rejected"] + sum(card["left_out"].values()) == card["files"]
    found = {split: {} for split in card["splits"]}
    for name, counts in card["classes"].items():
        for split, count in counts.items():
            if count:
                found[split][name] = count
    return card, found
