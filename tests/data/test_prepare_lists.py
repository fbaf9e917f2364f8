"""Label lists of the validation images are read in all formats; lists for other images are errors."""

import pytest

from focalnet_jax.data.class_lists import class_list
from focalnet_jax.data.prepare.val_labels import read_val_labels
from focalnet_jax.errors import UserError
from tests.data import layouts
from tests.data.layouts import IDS, NUMBERS, SYNSETS, meta_mat, solution, write_folder, write_train, write_val
from tests.data.preparing import in_process, prepared, refused  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
VAL, OF_VAL = write_val()
STEMS = [name.removesuffix(".JPEG") for name in VAL]
FOUND = {"train": {SYNSETS[0]: 6, SYNSETS[1]: 4, SYNSETS[2]: 4}, "val": dict.fromkeys(SYNSETS, 2)}
SHIFTED = [*OF_VAL[1:], OF_VAL[0]]
ROWS = list(zip(STEMS, OF_VAL, strict=True))
WARNED = "has class n01443537, but shows a sea snake, n01751748"


def write_set(root, val=VAL):
    """Writes train as class folders, and the validation images into one folder."""
    write_folder(root / "train", write_train(root))
    write_folder(root / "val", val)
    return root


def lines(*values):
    return "".join(f"{value}\n" for value in values)


@pytest.mark.parametrize(
    "text",
    [
        lines(*(f"{stem}.JPEG {SYNSETS.index(synset)}" for stem, synset in ROWS)),
        lines(*(f"{stem}.JPEG {NUMBERS[synset] + 1}" for stem, synset in ROWS)),
    ],
)
def test_numbers_of_a_list_that_the_first_image_does_not_prove_must_be_classes_of_train(text, tmp_path):
    source = write_set(tmp_path / "set")
    (tmp_path / "list.txt").write_text(text)
    arguments = ["imagenet1k", "--source", source, "--val-labels", tmp_path / "list.txt", "--out", tmp_path / "out"]
    refused("classes that have no training images", *arguments)


@pytest.mark.parametrize("row", ["{synset}", "{stem}.JPEG {synset}", "{stem}.JPEG {number}"])
@pytest.mark.parametrize("wrong", [True, False])
def test_a_whole_list_in_which_the_first_image_is_not_a_sea_snake_is_refused(row, wrong, tmp_path):
    synsets = [synset for synset, _ in class_list(1000)]
    numbers = [(65 + number + wrong) % 1000 for number in range(50_000)]
    rows = (
        row.format(stem=f"ILSVRC2012_val_{place:08d}", synset=synsets[number], number=number)
        for place, number in enumerate(numbers, 1)
    )
    (tmp_path / "list.txt").write_text(lines(*rows))
    if wrong:
        with pytest.raises(UserError, match="order"):
            read_val_labels(tmp_path / "list.txt")
    else:
        assert read_val_labels(tmp_path / "list.txt").synsets["ILSVRC2012_val_00000002"] == synsets[66]


@pytest.mark.parametrize("text", [lines(*map(" ".join, zip(STEMS, SHIFTED, strict=True))), lines(*SHIFTED)])
def test_a_short_list_in_which_the_first_image_is_not_a_sea_snake_is_used_with_a_warning(text, tmp_path, capsys):
    source = write_set(tmp_path / "set")
    (tmp_path / "list.txt").write_text(text)
    arguments = ["imagenet1k", "--source", source, "--val-labels", tmp_path / "list.txt"]
    assert prepared(tmp_path / "out", *arguments)[1] == FOUND
    assert f"warning: ILSVRC2012_val_00000001 in {source / 'val'} {WARNED}" in capsys.readouterr().out


def test_folders_in_which_the_first_image_is_not_a_sea_snake_are_used_with_a_warning(tmp_path, capsys):
    source = write_set(tmp_path / "set", {f"{s}/{n}": c for s, (n, c) in zip(SHIFTED, VAL.items(), strict=True)})
    for kind in ("imagenet1k", "imagefolder"):
        assert prepared(tmp_path / kind, kind, "--source", source)[1] == FOUND
        assert WARNED in capsys.readouterr().out


def test_a_set_of_all_classes_in_which_the_first_image_is_not_a_sea_snake_is_refused(tmp_path):
    train = write_train(tmp_path)
    image = train[f"{SYNSETS[0]}/{SYNSETS[0]}_0.JPEG"]
    train |= {f"{synset}/{synset}_9999.JPEG": image for synset, _ in class_list(1000)}
    write_folder(tmp_path / "train", train)
    write_folder(tmp_path / "val", {f"{s}/{n}": c for s, (n, c) in zip(SHIFTED, VAL.items(), strict=True)})
    refused(f"{WARNED}: the labels of val", "imagenet1k", "--source", tmp_path, "--out", tmp_path / "out")


def test_a_ground_truth_with_an_extra_line_is_refused(tmp_path):
    source = write_set(tmp_path / "set")
    (source / "meta.mat").write_bytes(meta_mat())
    truth = lines(*(IDS[synset] for synset in ["n01751748", *OF_VAL]))
    (source / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    told = "has 7 lines, one per image, but val has 6 images"
    refused(told, "imagenet1k", "--source", source, "--out", tmp_path / "out")


@pytest.mark.parametrize("number", [NUMBERS, SYNSETS.index, IDS])
@pytest.mark.parametrize("shift", [0, 1])
def test_numbers_of_a_list_without_the_first_image_must_be_classes_of_train(number, shift, tmp_path):
    number = number if callable(number) else number.__getitem__
    source = write_set(tmp_path / "set", dict(list(VAL.items())[1:]))
    text = lines(*(f"{stem}.JPEG {number(synset) + shift}" for stem, synset in ROWS[1:]))
    (tmp_path / "list.txt").write_text(text)
    arguments = ["imagenet1k", "--source", source, "--val-labels", tmp_path / "list.txt"]
    if number == NUMBERS.__getitem__ and not shift:
        assert prepared(tmp_path / "out", *arguments)[1] == FOUND | {"val": FOUND["val"] | {"n01751748": 1}}
    else:
        refused("have no training images", *arguments, "--out", tmp_path / "out")


@pytest.mark.parametrize("number", [str, IDS.__getitem__])
def test_a_blank_line_that_shifts_the_lines_after_it_is_refused(number, tmp_path):
    source = write_set(tmp_path / "set")
    values = [*map(number, OF_VAL[:3]), "", *map(number, OF_VAL[3:]), *map(number, SYNSETS)]
    (source / "meta.mat").write_bytes(meta_mat())
    (tmp_path / "list.txt").write_text(lines(*values))
    arguments = ["imagenet1k", "--source", source, "--out", tmp_path / "out", "--val-labels", tmp_path / "list.txt"]
    refused("line 4 is empty, so the labels after it are shifted", *arguments)


def test_two_lists_next_to_the_images_must_agree(tmp_path, capsys):
    source = layouts.devkit(tmp_path / "set")
    solution(source, OF_VAL)
    assert prepared(tmp_path / "out", "imagenet1k", "--source", source)[1] == FOUND
    solution(source, [*OF_VAL[:2], OF_VAL[0], *OF_VAL[3:]])
    told = (
        "have different classes for 1 images, such as ILSVRC2012_val_00000003: give the correct list with --val-labels"
    )
    refused(told, "imagenet1k", "--source", source, "--out", tmp_path / "none")
    (source / "LOC_val_solution.csv").unlink()
    (source / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    (source / "ILSVRC2012_validation_ground_truth.txt").write_text(lines(*(IDS[synset] for synset in OF_VAL)))
    (source / "imagenet_2012_validation_synset_labels.txt").write_text(lines(*OF_VAL))
    capsys.readouterr()
    assert prepared(tmp_path / "other", "imagenet1k", "--source", source)[1] == FOUND
    assert "not used:" in capsys.readouterr().out


def test_images_that_only_the_list_has_are_reported(tmp_path, capsys):
    source = write_set(tmp_path / "set", dict(list(VAL.items())[:4]))
    solution(source, OF_VAL)
    prepared(tmp_path / "out", "imagenet1k", "--source", source)
    told = "note: 2 of the 6 images in the label list are missing, such as ILSVRC2012_val_00000005\n"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (lines(*(f'"{stem}.JPEG","{synset}"' for stem, synset in ROWS)), "utf-8"),
        ('"ImageId","Prediction"\n' + lines(*(f'"{stem}","{synset} 1 2 3 4 "' for stem, synset in ROWS)), "utf-8"),
        (lines(*(f"{stem}.JPEG;{synset}" for stem, synset in ROWS)), "utf-8"),
        ("filename,label\n" + lines(*(f"{stem}.JPEG,{synset}" for stem, synset in ROWS)), "utf-8"),
        ("filename,label\n" + lines(*(f"{stem}.JPEG,{NUMBERS[synset]}" for stem, synset in ROWS)), "utf-8"),
        (lines(*(f"{stem}.JPEG,{synset.upper()}" for stem, synset in ROWS)), "utf-8"),
        (lines("synset", *OF_VAL), "utf-8"),
        (lines(*(f"{stem},{synset}" for stem, synset in ROWS)), "utf-16"),
    ],
)  # fmt: skip
def test_quotes_headers_and_encodings_of_a_list_do_not_matter(text, encoding, tmp_path):
    source = write_set(tmp_path / "set")
    (tmp_path / "list.csv").write_text(text, encoding)
    arguments = ["imagenet1k", "--source", source, "--val-labels", tmp_path / "list.csv"]
    assert prepared(tmp_path / "out", *arguments)[1] == FOUND


@pytest.mark.parametrize("place", ["val/LOC_val_solution.csv", "LOC_val_solution.csv"])
def test_a_list_among_the_validation_images_or_above_the_splits_is_found(place, tmp_path):
    images = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    write_set(images)
    solution(tmp_path, OF_VAL)
    sources = [images / "train", images / "val"]
    if place.startswith("val"):
        (tmp_path / "LOC_val_solution.csv").rename(images / place)
        sources = [images]
    assert prepared(tmp_path / "out", "imagenet1k", "--source", *sources)[1] == FOUND


@pytest.mark.parametrize("named", ["folders", "names"])
def test_a_shifted_list_is_refused_if_only_a_few_folders_or_names_contradict_it(named, tmp_path):
    """It is not enough to reject the contradicting images, because the labels of the others may also be wrong."""
    _, *others = zip(STEMS, VAL.values(), OF_VAL, strict=True)  # without the first image, which would prove the order
    write_set(tmp_path, {f"{stem}.JPEG": content for stem, content, _ in others})
    stem, _, synset = others[2]
    place = tmp_path / "val" / (f"{synset}/{stem}.JPEG" if named == "folders" else f"{stem}_{synset}.JPEG")
    place.parent.mkdir(exist_ok=True)
    (tmp_path / "val" / f"{stem}.JPEG").rename(place)
    text = lines(*(f"{stem},{SYNSETS[(SYNSETS.index(synset) + 1) % 3]}" for stem, _, synset in others))
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + text)
    arguments = ["imagenet1k", "--source", tmp_path, "--out", tmp_path / "out"]
    refused(
        "the labels of val contradict the names of 1 of the 1 images with a class in their names: 1 images of class ",
        *arguments,
    )
