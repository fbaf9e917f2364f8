"""Compares the speed of reading image files into batches with timm's: python -m benchmarks.input.

Needs the environment of `make parity` (`.venv-parity/bin/python`). Writes JPEGs of real photos, 500 pixels wide like
ImageNet's, and reads them alternately with this package's loader and with a torch DataLoader that uses timm's
`create_transform`, with the same recipe and image size. Both return uint8 batches, because normalization, erasing and
mixing run on the device in both. The speed is measured in images per second of processor time. Then the benchmark
measures each stage of this package's loader, and both loaders in wall time with one and two reading processes. The last
line is one JSON object; `full_recipe_ratio` and `plain_ratio` are our speed divided by timm's.

`--task segmentation` compares images and masks of two sizes with mmsegmentation's pipeline, and `--task detection`
images with boxes and masks with mmdetection's; one thread each.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # for python benchmarks/input.py

from benchmarks.flags import make_parser, positive
from benchmarks.processor import images_per_second
from benchmarks.side_by_side import need
from focalnet_jax.data import transforms
from focalnet_jax.data.decode import decode
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.loader import ReadOptions, train_batches
from focalnet_jax.data.pixels import resize
from focalnet_jax.data.policies import parse_policy
from focalnet_jax.programs.run_command import run_command
from focalnet_jax.tasks.classification.host import ClassificationHost

SIZE, BATCH = 224, 64
POLICY = "rand-m9-mstd0.5-inc1"
CROP, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_WARM_UP = 10  # batches per reading process


def write_images(folder: Path, count: int) -> None:
    """Writes `count` JPEGs, 500x375 or 375x500, in two classes: crops of photos in scikit-learn and scikit-image."""
    from skimage import data as photos
    from sklearn.datasets import load_sample_images

    pictures = [*load_sample_images().images, photos.astronaut(), photos.coffee(), photos.chelsea(), photos.rocket()]
    draw = np.random.default_rng(0)
    for index in range(count):
        picture = Image.fromarray(pictures[index % len(pictures)])
        side = min(picture.size)
        left, top = (int(draw.integers(0, extent - side * 3 // 4 + 1)) for extent in picture.size)
        size = (500, 375) if index % 4 else (375, 500)
        crop = picture.crop((left, top, left + side * 3 // 4, top + side * 3 // 4)).resize(size, Image.BICUBIC)
        path = folder / "train" / str(index % 2) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=90)


def ours(folder: Path, policy: str, workers: int, batches: int) -> Iterator[np.ndarray]:
    """Yields batches of this package's loader; if `workers` is 0, one thread reads."""
    augments = list(filter(None, [parse_policy(policy)]))
    host = ClassificationHost(transforms.train_transform(SIZE, CROP, RATIO, 0.5, augments), None)
    reading = ReadOptions(threads=1, workers=workers)
    source = FolderSource(str(folder), "train")
    for batch in train_batches(source, host, batch_size=BATCH, seed=0, start_step=0, end_step=batches, reading=reading):
        yield batch["image"]


def timms(folder: Path, policy: str, workers: int, batches: int) -> Iterator[np.ndarray]:
    """Yields batches of a torch DataLoader with timm's transform and collate function."""
    import torch
    from timm.data import create_transform
    from timm.data.loader import fast_collate
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(1)
    transform = create_transform(
        SIZE,
        is_training=True,
        use_prefetcher=True,  # returns uint8; the device does the rest
        auto_augment=policy or None,
        color_jitter=None,
        interpolation="bicubic",
        scale=CROP,
        ratio=RATIO,
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(folder / "train", transform),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        collate_fn=fast_collate,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    done = 0
    while done < batches:
        for images, _ in loader:
            yield images.numpy()
            done += 1
            if done == batches:
                break


def stages(folder: Path) -> dict[str, float]:
    """Returns the milliseconds per image of each stage of the full recipe."""
    files = sorted(folder.glob("train/*/*.jpg"))[:64]
    encoded = [file.read_bytes() for file in files]
    decoded = [decode(data) for data in encoded]
    rng = np.random.default_rng(0)
    boxes = [transforms.random_resized_crop_box(d.shape[1], d.shape[0], CROP, RATIO, rng) for d in decoded]
    cropped = [resize(d, box, (SIZE, SIZE), (0, 0, SIZE, SIZE)) for d, box in zip(decoded, boxes, strict=True)]
    policy = parse_policy(POLICY)
    return {
        "read": _each(lambda i: files[i].read_bytes(), 64),
        "decode": _each(lambda i: decode(encoded[i]), 64),
        "crop": _each(lambda i: resize(decoded[i], boxes[i], (SIZE, SIZE), (0, 0, SIZE, SIZE)), 64),
        "augment": _each(lambda i: policy(cropped[i], rng), 64),
        "collate": _each(lambda i: np.stack(cropped), 1) / 64,
        "transfer": _each(lambda i: jax.device_put(np.stack(cropped)).block_until_ready(), 1) / 64,
    }


def _each(function: Callable[[int], object], count: int) -> float:
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        for index in range(count):
            function(index)
        times.append((time.perf_counter() - begun) / count)
    return 1000 * min(times)


def per_wall_second(loader: Callable[..., Iterator[np.ndarray]], folder: Path, workers: int, batches: int) -> float:
    """Returns images per second of wall time with `workers` reading processes, after all of them have started."""
    # Longer than the measured part, because the processes must still read ahead at its end, as at its beginning.
    stream = loader(folder, POLICY, workers, batches + 2 * _WARM_UP * workers)
    for _ in range(_WARM_UP * workers):
        next(stream)
    begun = time.perf_counter()
    count = sum(len(next(stream)) for _ in range(batches))
    seconds = time.perf_counter() - begun
    for _ in stream:  # ends the reading processes
        pass
    return count / seconds


def main(arguments: list[str]) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--task", choices=["classification", "segmentation", "detection"], default="classification")
    parser.add_argument("--images", type=positive, default=2048, help="number of files, for classification")
    parser.add_argument(
        "--batches",
        type=positive,
        default=12,
        help="batches per measurement, of 64 images for classification and 8 for the other tasks",
    )
    parser.add_argument("--rounds", type=positive, default=3)
    flags = parser.parse_args(arguments)
    if flags.task == "segmentation":
        from benchmarks.input_segmentation import measure

        measure(flags.batches, flags.rounds)
        return
    if flags.task == "detection":
        from benchmarks.input_detection import measure

        measure(flags.batches, flags.rounds)
        return
    need("torch", "timm", "torchvision", "skimage")
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, flags.images)
        size = statistics.mean(file.stat().st_size for file in folder.glob("train/*/*.jpg"))
        print(f"{flags.images} JPEGs, {size / 1000:.0f} kB on average; {os.cpu_count()} cores")
        for kind, policy in (("full_recipe", POLICY), ("plain", "")):
            rates = {"ours": [], "timm": []}
            for _ in range(flags.rounds):  # alternates, so that other load on the machine slows both
                rates["ours"].append(images_per_second(partial(ours, folder, policy, 0), flags.batches))
                rates["timm"].append(images_per_second(partial(timms, folder, policy, 0), flags.batches))
            ratios = [a / b for a, b in zip(rates["ours"], rates["timm"], strict=True)]
            median = {side: statistics.median(values) for side, values in rates.items()}
            result |= {f"{kind}_{side}": round(value) for side, value in median.items()}
            result[f"{kind}_ratio"] = round(statistics.median(ratios), 2)
            print(
                f"{kind:<12} images/s/core: ours {median['ours']:.0f}, timm {median['timm']:.0f}, ratio "
                f"{min(ratios):.2f} to {max(ratios):.2f}"
            )
        result["stages_ms"] = {stage: round(value, 3) for stage, value in stages(folder).items()}
        for stage, value in result["stages_ms"].items():
            print(f"{stage:<12} {value:.3f} ms per image")
        result["by_processes"] = {}
        for workers in (1, 2):
            pair = [round(per_wall_second(side, folder, workers, 2 * flags.batches)) for side in (ours, timms)]
            result["by_processes"][workers] = dict(zip(("ours", "timm"), pair, strict=True))
            print(f"{workers} process{'es'[: 2 * workers - 2]:<3} images/s: ours {pair[0]}, timm {pair[1]}")
    print(json.dumps(result))


if __name__ == "__main__":
    run_command(main)
