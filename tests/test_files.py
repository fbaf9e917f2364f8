"""If an output cannot be written, the command ends before its work; otherwise the file is written completely."""

import os
from pathlib import Path

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.system.files import check_folder, check_result, output_file_names, write_result
from tests.commands import run


def test_paths_that_cannot_be_written_are_refused_before_with_what_to_do(tmp_path, monkeypatch):
    there = tmp_path / "there.npz"
    there.touch()
    for path, overwrite, message in (
        (there, None, "already exists; remove it or choose another name"),
        (there, False, "already exists; choose another --out or give --overwrite"),
        (tmp_path, True, "is a folder; expected the path of a file"),
        (there / "x.npz", True, "there is no folder"),
        (Path("gs://bucket/report.html"), None, "^gs://bucket/report.html: this file is written to a local path"),
    ):
        with pytest.raises(UserError, match=message):
            check_result(path, overwrite=overwrite)
    check_result(there, overwrite=True)
    check_result(tmp_path / "new.npz")
    check_folder(tmp_path / "a" / "b", "--out")
    with pytest.raises(UserError, match=r"^s3://bucket/drawn: the files of --out are written to a local path"):
        check_folder(Path("s3://bucket/drawn"), "--out")
    monkeypatch.setattr(os, "access", lambda *_: False)  # needed because root may write everywhere
    with pytest.raises(UserError, match="is not writable; choose another name"):
        check_result(tmp_path / "new.npz")
    with pytest.raises(UserError, match=r"--out .*b: .* is not writable; choose another"):
        check_folder(tmp_path / "a" / "b", "--out")


def test_what_cannot_be_written_after_all_is_named_and_nothing_is_left(tmp_path):
    (tmp_path / "x.png").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*x\.png: Is a directory"):
        write_result(tmp_path / "x.png", b"content")
    with pytest.raises(UserError, match=r"cannot write .*x\.html: its text is not UTF-8"):
        write_result(tmp_path / "x.html", "a name of a file: \udcff")
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.png", "a/y.jpg"], ["x", "y"]),
        (["a/x.png", "a/x.jpg", "a/x-2.png"], ["x.png", "x.jpg", "x-2.png"]),
        (["a/kernels.png"], ["kernels.png"]),
        (["a/x.png", "b/x.png"], ["a_x", "b_x"]),
        (["a/x.png", "b/x.png", "b/x.jpg"], ["a_x.png", "b_x.png", "b_x.jpg"]),
        (["p/a/x.png", "q/a/x.png", "q/a/x-2.png"], ["x", "x-2", "x-2-2"]),
        (["a/x.png", "./a/../a/x.png"], ["x", "x"]),
    ],
)
def test_outputs_of_different_files_have_different_names(paths, names):
    paths = list(map(Path, paths))
    assert output_file_names(paths, taken=("kernels",)) == dict(zip(paths, names, strict=True))


@pytest.mark.parametrize("address", ["gs://bucket/x", "s3://bucket/x", "https://huggingface.co/org/name"])
@pytest.mark.parametrize(
    "command",
    [
        ["focalnet_jax.convert", "weights.pth", "{}", "--to", "timm"],
        ["focalnet_jax.predict", "image.png", "--checkpoint", "weights.pth", "--out", "{}"],
        ["focalnet_jax.visualize", "--checkpoint", "weights.pth", "--images", "image.png", "--out", "{}"],
        ["focalnet_jax.data.show", "--config", "configs/quickstart.py", "--out", "{}"],
        ["focalnet_jax.sweep", "--config", "configs/quickstart.py", "--config.seed=0,1", "--workdir", "{}"],
    ],
    ids=lambda command: command[0],
)
def test_results_for_local_paths_are_not_written_to_folders_named_like_an_address(command, address):
    module, *arguments = command
    done = run("-m", module, *(argument.format(address) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {address}: ") or done.stderr.startswith(f"error: --workdir {address}")
    assert not Path(address.partition("//")[0]).exists()
