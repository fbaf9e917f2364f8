"""python -m focalnet_jax.demo serves a working page, over HTTP and in a browser."""

import base64
import io
import os
import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from focalnet_jax.demo.__main__ import main
from focalnet_jax.errors import UserError
from focalnet_jax.inference import load_classifier, read_picture
from tests.commands import ENVIRONMENT, assert_one_line_mistake, command, run

gradio_client = pytest.importorskip("gradio_client", reason="no gradio: make parity has it, and runs this")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def served(staged, tmp_path_factory):
    """Serves the page of a small model in a separate process; yields its address and its folder for temporary files."""
    workdir, _ = staged
    folder = tmp_path_factory.mktemp("served")
    (folder / "tmp").mkdir()
    flags = ["-m", "focalnet_jax.demo", "--checkpoint", workdir, "--port", 0, "--topk", 3]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command(*flags),
            env=ENVIRONMENT | {"TMPDIR": str(folder / "tmp")},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), (folder / "stderr").read_text()
        yield SimpleNamespace(process=process, address=line.split()[0], folder=folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Writes a photo in several common formats; returns the paths by name."""
    folder = tmp_path_factory.mktemp("pictures")
    china, flower = map(Image.fromarray, load_sample_images().images)
    turned = Image.Exif()
    turned[0x0112] = 6  # rotated by 90 degrees
    china.save(folder / "plain.jpg")
    china.save(folder / "turned.jpg", exif=turned)
    flower.convert("RGBA").save(folder / "clear.png")
    flower.convert("L").save(folder / "grey.webp")
    flower.resize((4000, 3000)).save(folder / "large.jpg")
    flower.resize((1, 1)).save(folder / "tiny.png")
    return {path.name: path for path in folder.iterdir()}


def visitor(served):
    return gradio_client.Client(served.address, verbose=False, analytics_enabled=False)


def shown(client, path, stage=2, block=2):
    """Returns the response to an image: probabilities by class, the message, and panels of classes and maps."""
    _, prediction, message, classes, maps = client.predict(
        gradio_client.handle_file(path), stage, block, api_name="/show"
    )
    named = {each["label"]: each["confidence"] for each in (prediction or {}).get("confidences") or []}
    return named, message, panels(classes), panels(maps)


def panels(text):
    """Returns the name and image of each panel in the page's HTML."""
    found = re.findall(r"<img class=map alt='([^']*)' src='data:image/png;base64,([^']*)'", text)
    return {name: decoded(encoded) for name, encoded in found}


def decoded(encoded):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def test_pictures_of_every_kind_are_predicted_as_predict_does(served, pictures, staged):
    classifier = load_classifier(staged[0])
    client = visitor(served)
    for path in pictures.values():
        named, message, classes, maps = shown(client, path)
        assert named == pytest.approx(dict(classifier.predict([read_picture(path)], 3)[0]), rel=1e-5)
        assert message == ""
        assert list(classes) == ["the image", *named]
        assert list(maps) == ["modulator", "gate, level 1", "gate, level 2", "gate, global"]
        expected = classifier.transform(read_picture(path))
        np.testing.assert_array_equal(classes["the image"][::14, ::14], expected)  # 16 pixels, enlarged to 224


def test_two_visitors_at_once_see_each_their_own_picture_and_choose_their_own_stage(served, pictures):
    def visit(name):
        client = visitor(served)
        named, _, classes, _ = shown(client, pictures[name])
        choice, maps = client.predict(1, api_name="/stage")
        assert choice["value"] == 1  # stage 1 has one block
        return named, classes["the image"], panels(maps)["modulator"]

    names = ["plain.jpg", "large.jpg"] * 2
    with ThreadPoolExecutor(len(names)) as pool:
        together = list(pool.map(visit, names))
    for name, (named, picture, modulator) in zip(names, together, strict=True):
        alone = visit(name)
        assert named == alone[0]
        np.testing.assert_array_equal(picture, alone[1])
        np.testing.assert_array_equal(modulator, alone[2])
    assert together[0][0] != together[1][0]


def test_a_file_that_is_no_image_gets_one_line_and_the_page_keeps_working(served, pictures, tmp_path):
    cut = tmp_path / "cut<b>.jpg"
    cut.write_bytes(pictures["plain.jpg"].read_bytes()[:5000])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    client = visitor(served)
    for path in (cut, text):
        named, message, classes, maps = shown(client, path)
        assert (named, classes, maps) == ({}, {}, {})
        assert " is not an image that can be read: " in message
        assert "\n" not in message
        assert "<b>" not in message
        assert str(served.folder) not in message
    assert shown(client, pictures["plain.jpg"])[1] == ""
    assert (served.folder / "stderr").read_text() == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_what_a_dropped_picture_is_and_requests_only_this_machine(served, pictures, staged, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    best = load_classifier(staged[0]).predict([read_picture(pictures["plain.jpg"])], 3)[0]
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start as root, the user in containers.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else [])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(served.address)
        page.get_by_text("Drop an image on the left").wait_for()

        drop(page, pictures["plain.jpg"])
        page.locator("#modulation img.map").nth(3).wait_for()
        assert page.locator("#classes b").all_inner_texts() == ["the image", *(name for name, _ in best)]
        assert page.locator(".output-class").first.inner_text().strip() == best[0][0]
        last = drawn(page, "modulation")
        assert list(last) == ["modulator", "gate, level 1", "gate, level 2", "gate, global"]
        for picture in [*last.values(), *drawn(page, "classes").values()]:
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20  # colours
        page.screenshot(path=Path(os.environ.get("SCREENSHOTS", tmp_path)) / "demo.png", full_page=True)

        page.get_by_role("radio", name="1").check()
        page.get_by_text("each of 4x4 positions").wait_for()
        assert (drawn(page, "modulation")["modulator"] != last["modulator"]).any()

        source = page.locator("img.map[alt='the image']").get_attribute("src")
        drop(page, pictures["clear.png"])  # again, with the selected stage
        of_another = f"img.map[alt='the image']:not([src='{source}'])"
        page.locator(of_another).wait_for()
        assert page.get_by_text("each of 4x4 positions").is_visible()
        browser.close()
    outside = [url for url in asked if not url.startswith((served.address, "data:", "blob:"))]
    assert (outside, errors) == ([], [])


def drop(page, path):
    """Drops a file onto the page's drop area, with the same event as a user."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    script = """([encoded, name]) => {
        const bytes = Uint8Array.from(atob(encoded), letter => letter.charCodeAt(0));
        const held = new DataTransfer();
        held.items.add(new File([bytes], name));
        return held;
    }"""
    held = page.evaluate_handle(script, [encoded, path.name])
    page.get_by_text("Drop File Here").dispatch_event("drop", {"dataTransfer": held})


def drawn(page, part):
    """Returns the panels in the browser, after all images have been loaded."""
    found = page.locator(f"#{part} img.map").evaluate_all(
        "all => all.map(each => [each.alt, each.complete && each.naturalWidth > 0 && each.src])"
    )
    assert all(source for _, source in found)
    return {name: decoded(source.split(",")[1]) for name, source in found}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topk", "0"], "--topk 0: expected 1 or more"),
        (["--port", "70000"], "--port 70000: expected 0 to 65535"),
        (["--host", "192.0.2.1"], "cannot serve at --host 192.0.2.1 --port 7860: Cannot assign"),
        (["--prot", "1"], "--prot"),
    ],
)
def test_a_mistake_gets_one_line(flags, message):
    with pytest.raises(UserError, match=message):
        main(["--checkpoint", "nowhere", *flags])


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use; choose another"):
            main(["--checkpoint", "nowhere", "--port", str(port)])


def test_without_gradio_or_a_checkpoint_one_line_says_so(tmp_path):
    flags = ["-m", "focalnet_jax.demo", "--checkpoint", tmp_path / "nowhere", "--port", 0]
    assert_one_line_mistake(run(*flags), "no checkpoint or weights file at")
    (tmp_path / "gradio.py").write_text("raise ImportError('not here')")
    without = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    assert_one_line_mistake(run(*flags, env=without), "pip install 'focalnet_jax[demo]'")


def test_ctrl_c_ends_it_silently_and_leaves_no_picture_behind(served):
    served.process.send_signal(signal.SIGINT)  # must be the last test, because it ends the server
    assert served.process.wait(timeout=30) == 0
    assert served.process.stdout.read() == "ended\n"
    assert (served.folder / "stderr").read_text() == ""
    assert list((served.folder / "tmp").iterdir()) == []
