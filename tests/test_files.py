"""If an output cannot be written, the command ends before its work; otherwise the file is written completely."""

import os
from pathlib import Path

import pytest

from focalnet_jax.errors import UserError
from focalnet_jax.system.files import check_folder, check_result, output_file_names, write_result


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
