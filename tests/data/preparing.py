"""Preparing data sets, and what is in one."""

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter

import pytest

from focalnet_jax.data.prepare.__main__ import main
from focalnet_jax.data.tfds_source import TfdsSource
from focalnet_jax.errors import UserError

SMALL = ["--processes", "2", "--shard-mb", "1"]


def command(*arguments):
    """`python -m focalnet_jax.data.prepare` with arguments."""
    return [sys.executable, "-m", "focalnet_jax.data.prepare", *map(str, arguments)]


def prepare(*arguments):
    """Runs `python -m focalnet_jax.data.prepare`."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


def killed(folder, pattern, *arguments):
    """Starts a preparation and kills it as soon as a file of this pattern is in the folder."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(folder.glob(pattern)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def refused(message, *arguments):
    """Prepares with a mistake, which must be told."""
    with pytest.raises(UserError) as caught:
        main(list(map(str, arguments)))
    assert message in str(caught.value), caught.value


def share(name):
    """Where in [0, 1) the image of this class and name lies when some are held out, as its documentation says."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") / 2**32


def contents(folder, split):
    """The digest of every image by file name, and the classes counted."""
    source = TfdsSource(str(folder), split)
    examples = [source._examples[index] for index in range(len(source))]
    digests = {example["file_name"].decode(): hashlib.sha256(example["image"]).hexdigest() for example in examples}
    assert len(digests) == len(source)  # no name twice
    return digests, Counter(source.class_names[label] for _, label in (source[index] for index in range(len(source))))


def write_tar(path, files):
    """A tar of these names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def in_process(monkeypatch):
    """Prepares without processes of its own: these take seconds to start, and are tested elsewhere."""

    def run_all(function, arguments, processes, report):
        for done, given in enumerate(arguments, 1):
            report(done, function(*given))

    monkeypatch.setattr("focalnet_jax.data.prepare.preparation.run_all", run_all)


def prepared(out, kind, *arguments):
    """Prepares in this process; returns the card, and the classes counted by split, those with images."""
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
