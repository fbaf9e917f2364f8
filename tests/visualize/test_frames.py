"""Frames of a folder, an animation and a video are read in the right order."""

import numpy as np
import pytest
from PIL import Image

from focalnet_jax.errors import UserError
from focalnet_jax.visualize.frames import is_video, read_frames


def test_frames_follow_each_other_by_their_numbers_however_they_are_written(tmp_path):
    names = ["0.png", "1.png", "02.png", "3.png", "9.png", "10.png", "11.png", "100.png"]
    for shade, name in enumerate(names):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(tmp_path / name)
    frames, _ = read_frames(tmp_path, 1, 100)
    assert [frame[0, 0, 0] for frame in frames] == list(range(len(names)))
    frames, _ = read_frames(tmp_path, 3, 2)
    assert [frame[0, 0, 0] for frame in frames] == [0, 3]


def test_frames_of_several_sizes_are_refused_with_what_to_do(tmp_path):
    for side in (8, 9):
        Image.new("RGB", (side, 8)).save(tmp_path / f"{side}.png")
    with pytest.raises(UserError, match=r"different sizes \(8x8, 9x8\); expected one size: crop or resize them"):
        read_frames(tmp_path, 1, 100)


@pytest.mark.parametrize("name", ["broken.gif", "broken.mp4"])
def test_what_cannot_be_read_is_named_when_it_is_read(tmp_path, name):
    broken = tmp_path / name
    broken.write_bytes(b"GIF89a and no more")
    assert is_video(broken) == (broken.suffix == ".mp4")
    with pytest.raises(UserError, match=f"cannot read frames from .*{name}"):
        read_frames(broken, 1, 100)


def test_an_animation_gives_all_its_frames_and_their_time(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=70)
    assert is_video(tmp_path / "a.gif")
    read, seconds = read_frames(tmp_path / "a.gif", 2, 100)
    assert (seconds, [tuple(frame[0, 0]) for frame in read]) == (pytest.approx(0.14), [(0, 0, 0), (255, 0, 0)])
    assert all(frame.dtype == np.uint8 for frame in read)


def test_a_file_that_is_a_gif_by_name_alone_starts_no_program(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif", "EPS")  # a format for which Pillow would start Ghostscript
    assert not is_video(tmp_path / "a.gif")
    with pytest.raises(UserError, match="cannot read frames from"):
        read_frames(tmp_path / "a.gif", 1, 10)
