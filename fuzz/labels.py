"""Fuzzes labels of every form through `data.prepare`: class files, label lists, WebDataset, Parquet and TFRecord."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import tensorflow_datasets as tfds
from PIL import Image
from pyarrow import parquet
from tensorboardX.record_writer import RecordWriter

from focalnet_jax.data.class_files import read_classes
from focalnet_jax.data.prepare.metadata import write_description
from focalnet_jax.errors import RunFailedError, UserError
from fuzz.archives import write_tar
from fuzz.columns import CLASSES, IMAGE_COLUMNS, LABEL_COLUMNS, TEXTS, any_text
from fuzz.mutations import Rng, dump_json, mutate_bytes, mutate_json, pick
from fuzz.preparing import Contents, contents, digest, prepare_quietly, stay_in_process
from fuzz.runner import Family, WrongAnswerError
from tests.data.layouts import write_folder, write_train, write_val


@dataclass(frozen=True)
class Material:
    """Images, folders and files from which the inputs of the cases are made."""

    pictures: list[bytes]
    imagenet: Path
    records: Path


def prepare(folder: Path) -> Material:
    """Returns nine images, a small ImageNet-1K, and a data set stored as TFRecord."""
    stay_in_process()
    rng, pictures = np.random.default_rng(0), []
    for _ in range(9):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 8, 3)).astype(np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    imagenet, records = folder / "imagenet", folder / "records"
    if not records.exists():
        write_folder(imagenet / "train", write_train(imagenet, 1))
        write_folder(imagenet / "val", write_val()[0])
        _write_records(records, pictures)
    return Material(pictures, imagenet, records)


def _write_records(folder: Path, pictures: list[bytes]) -> None:
    folder.mkdir()
    label = tfds.features.ClassLabel(names=CLASSES)
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3)), "label": label})
    form = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    writer = RecordWriter(str(folder / "small-train.tfrecord-00000-of-00001"))
    for number, picture in enumerate(pictures):
        writer.write(form.serialize_example(features.encode_example({"image": picture, "label": number % 3})))
    writer.close()
    write_description(folder, "small", "1.0.0", features, {"train": ([len(pictures)], sum(map(len, pictures)))})
    description = folder / "dataset_info.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"fileFormat": "tfrecord"}))


def case(material: Material, rng: Rng, folder: Path) -> None:
    """Prepares a data set from labels of one form, which are mostly damaged."""
    pick(rng, _FORMS)(material, rng, folder)


def _expect(expected: Contents | None, kind: str, source: Path, out: Path, *further: str) -> Contents:
    """Prepares a data set and returns its contents, which must equal the expected contents, if these are known."""
    try:
        prepare_quietly(kind, source, out, *further)
    except (UserError, RunFailedError) as error:
        if expected is not None:
            raise WrongAnswerError(f"undamaged labels are rejected: {error}") from error
        raise
    held = contents(out)
    if expected is not None and held != expected:
        raise WrongAnswerError(f"{len(held & expected)} of {len(expected)} images have their class")
    return held


def _labelled(pictures: list[bytes], names: tuple[str, ...] = CLASSES) -> Contents:
    return {(names[number % len(names)], digest(picture)) for number, picture in enumerate(pictures)}


def _encoded(text: str, rng: Rng, whole: bool) -> bytes:
    content = text.encode(errors="surrogatepass")
    return mutate_bytes(content, rng, 2) if not whole and rng.random() < 0.3 else content


def _class_file(material: Material, rng: Rng, folder: Path) -> None:
    whole = rng.random() < 0.2
    names = [name if whole else any_text(rng, name) for name in CLASSES]
    if not whole and rng.random() < 0.3:
        names += [pick(rng, TEXTS)]
    by_number = {str(number): name for number, name in enumerate(names)}
    value = pick(rng, (names, by_number, {"id2label": by_number}, {name: n for n, name in enumerate(names)}))
    match int(rng.integers(5)):
        case 0:
            content = _encoded("\n".join(names), rng, whole)
        case 1:
            lines = [f"{number}{pick(rng, (': ', ',', ' '))}{name}" for number, name in enumerate(names)]
            content = _encoded("\n".join(lines[::-1]), rng, whole)
        case 2:
            kinds = (value,) if whole else (value, set(names), tuple(names), [*names, 16**5000])
            content = _encoded(_printed(pick(rng, kinds)), rng, whole)
        case _:
            content = json.dumps(value).encode() if whole else dump_json(mutate_json(value, rng), rng)
    path = folder / "classes"
    path.write_bytes(content)
    shard = {f"{n}.png": picture for n, picture in enumerate(material.pictures)}
    shard |= {f"{number}.cls": str(number % 3).encode() for number in range(len(material.pictures))}
    (folder / "train.tar").write_bytes(write_tar(shard))
    expected = _labelled(material.pictures) if whole else None
    held = _expect(expected, "webdataset", folder / "train.tar", folder / "out", f"--classes={path}")
    stated = tuple(name.strip() for name in read_classes(path))  # TFDS strips white space
    known = {(stated[n % 3], digest(picture)) for n, picture in enumerate(material.pictures) if n % 3 < len(stated)}
    if not held <= known:
        raise WrongAnswerError(f"the classes are {stated}, but images have other classes")


def _printed(value: Any) -> str:
    """Returns the repr of a value. Numbers that are too large for repr are written in hexadecimal digits."""
    if isinstance(value, set):
        return f"{{{', '.join(map(repr, sorted(value)))}}}"
    if isinstance(value, list):
        return f"[{', '.join(hex(each) if isinstance(each, int) else repr(each) for each in value)}]"
    return repr(value)


def _label_list(material: Material, rng: Rng, folder: Path) -> None:
    whole = rng.random() < 0.2
    stems = [name.removesuffix(".JPEG") for name in write_val()[0]]
    rows = list(zip(stems, write_val()[1], strict=True))
    if not whole:
        rows = [(any_text(rng, stem), any_text(rng, synset)) for stem, synset in rows]
        rows = [rows[int(rng.integers(len(rows)))] if rng.random() < 0.1 else row for row in rows]
    match int(rng.integers(4)):
        case 0:
            lines = [synset for _, synset in rows]
        case 1:
            lines = ["ImageId,PredictionString", *(f"{stem},{synset} 1 2 3 4" for stem, synset in rows)]
        case 2:
            lines = [f"{stem}.JPEG{pick(rng, (' ', chr(9), ','))}{synset}" for stem, synset in rows]
        case _:
            lines = [any_text(rng, str(number)) for number in range(6)]
            whole = False
    path = folder / pick(rng, ("list.txt", "list.csv", "LOC_val_solution.csv", "labels"))
    path.write_bytes(_encoded("".join(f"{line}\n" for line in lines), rng, whole))
    _expect_val(material, whole, folder, path)


def _expect_val(material: Material, whole: bool, folder: Path, path: Path) -> None:
    try:
        prepare_quietly("imagenet1k", material.imagenet, folder / "out", f"--val-labels={path}")
    except (UserError, RunFailedError) as error:
        if whole:
            raise WrongAnswerError(f"an undamaged list is rejected: {error}") from error
        raise
    val, synsets = write_val()
    expected = {(synset, digest(picture)) for synset, picture in zip(synsets, val.values(), strict=True)}
    if whole and contents(folder / "out", ("val",)) != expected:
        raise WrongAnswerError("images have classes that differ from the list")


def _shard(material: Material, rng: Rng, folder: Path) -> None:
    whole = rng.random() < 0.2
    shard, suffix = {}, pick(rng, (".cls", ".json", ".txt", ".label"))
    stated = tuple(map(str, range(3))) if suffix == ".cls" else CLASSES
    for number, picture in enumerate(material.pictures):
        shard[f"{number}.png"] = picture
        label = stated[number % 3]
        if suffix == ".json":
            value = {"label": label, "filename": f"{number}.png"}
            changed = not whole and rng.random() < 0.3
            content = dump_json(mutate_json(value, rng), rng) if changed else json.dumps(value).encode()
        else:
            content = _encoded(label if whole else any_text(rng, label), rng, whole)
        if whole or rng.random() < 0.97:
            shard[f"{number}{suffix}"] = content
    path = folder / "train.tar"
    path.write_bytes(write_tar(shard))
    known = whole and suffix in (".cls", ".json")
    expected = _labelled(material.pictures, stated) if known else None
    _expect(expected, "webdataset", path, folder / "out", *_flags(rng, whole))


def _flags(rng: Rng, whole: bool) -> list[str]:
    return [] if whole or rng.random() < 0.9 else [f"--shard-mb={pick(rng, ('inf', '1e-9', '1e300', '0.001'))}"]


def _table(material: Material, rng: Rng, folder: Path) -> None:
    whole, pictures, count = rng.random() < 0.2, material.pictures, len(material.pictures)
    paths = [f"{number}.png" for number in range(count)]
    numbers = [number % 3 for number in range(count)]
    image: Any = pyarrow.array([{"bytes": p, "path": n} for p, n in zip(pictures, paths, strict=True)])
    label: Any = pyarrow.array([CLASSES[number] for number in numbers])
    if not whole:
        image, label = pick(rng, IMAGE_COLUMNS)(pictures, paths, rng), pick(rng, LABEL_COLUMNS)(numbers, rng)
    table = pyarrow.table({"image": image, pick(rng, ("label", "cls", "x")): label})
    flags = [] if whole or rng.random() < 0.5 else ["--image-column=image", f"--label-column={table.column_names[1]}"]
    if not whole and rng.random() < 0.5:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
        stated = dump_json(mutate_json({"info": {"features": features}}, rng), rng)
        table = table.replace_schema_metadata({b"huggingface": stated})
    buffer = io.BytesIO()
    parquet.write_table(
        table, buffer, row_group_size=int(rng.integers(1, 10)), compression=pick(rng, ("none", "snappy"))
    )
    content = buffer.getvalue()
    path = folder / "train.parquet"
    path.write_bytes(mutate_bytes(content, rng) if not whole and rng.random() < 0.3 else content)
    known = whole and table.column_names[1] == "label"
    _expect(_labelled(pictures) if known else None, "parquet", path, folder / "out", *flags, *_flags(rng, whole))


def _record_file(material: Material, rng: Rng, folder: Path) -> None:
    whole = rng.random() < 0.1
    source = folder / "small" / "1.0.0"
    shutil.copytree(material.records, source)
    changed = pick(rng, sorted(source.iterdir()))
    if not whole:
        content = changed.read_bytes()
        is_json = changed.suffix == ".json" and rng.random() < 0.7
        changed.write_bytes(
            dump_json(mutate_json(json.loads(content), rng), rng) if is_json else mutate_bytes(content, rng)
        )
    _expect(_labelled(material.pictures) if whole else None, "tfrecord", source, folder / "out")


_FORMS = (_class_file, _class_file, _label_list, _label_list, _shard, _shard, _table, _table, _record_file)
FAMILY = Family("labels", 1500, prepare, case, seconds=60)
