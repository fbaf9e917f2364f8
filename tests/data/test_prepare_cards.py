"""The files that describe a data set: subsets, splits and class names; patterns of file names."""

import json

import pytest

from focalnet_jax.data.prepare.cards import Subset, read_card
from focalnet_jax.data.prepare.patterns import expand_braces, is_pattern, matches
from focalnet_jax.data.prepare.subsets import choose_files, folders_as_subsets
from focalnet_jax.errors import UserError
from tests.data.pictures import picture
from tests.data.preparing import in_process, prepared, refused, write_tar  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")


def described(folder, **files):
    """Writes files, whose names are given with __ for a dot, and reads them as a card."""
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_card(folder)


NAMES = "'0': tench\n          '1': no\n          '2': 1.0"
FEATURES = f"""
  features:
  - name: image
    dtype: image
  - name: fine
    dtype:
      class_label:
        names:
          {NAMES}
  - name: coarse
    dtype:
      class_label:
        names:
        - a
        - b
"""


def test_class_names_are_strings_and_belong_to_a_column(tmp_path):
    card = described(tmp_path, README__md=f"---\nlicense: mit\ndataset_info:{FEATURES}---\n# x\n")
    assert card.class_names(["label", "fine"]) == (("tench", "no", "1.0"), "README.md")
    assert card.class_names(["coarse"]) == (("a", "b"), "README.md")
    assert card.class_names(["label"]) is None  # two columns, neither of this name


def test_class_names_belong_to_a_subset(tmp_path):
    subsets = [
        {"config_name": name, "features": [{"name": "label", "dtype": {"class_label": {"names": names}}}]}
        for name, names in (("one", ["a", "b"]), ("two", ["x", "y"]))
    ]
    card = described(tmp_path, README__md=f"---\n{json.dumps({'dataset_info': subsets})}\n---\n")
    assert card.class_names(["label"], "two") == (("x", "y"), "README.md")
    older = {name: {"features": {"label": {"names": [name, "b"], "_type": "ClassLabel"}}} for name in ("one", "two")}
    (tmp_path / "README.md").unlink()
    card = described(tmp_path, dataset_infos__json=older)
    assert card.class_names(["label"], "one") == (("one", "b"), "dataset_infos.json")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("_info__json", {"classes": ["a", "b"], "splits": {}}, ("a", "b")),
        ("info__json", {"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ("classes__txt", "a\nb\n", ("a", "b")),
        ("classnames__txt", "a\nb\n", ("a", "b")),
        ("_info__json", {"splits": {"train": {"num_samples": 3, "filenames": ["a.tar"]}}}, None),
        ("_info__json", {"id2label": {"2": "b", "0": "a"}}, None),
        ("_info__json", {"classes": ["a", 3]}, None),
        ("_info__json", "[1", None),
        ("README__md", "# no header", None),
        ("README__md", "---\n- a\n- b\n---\n", None),
        ("README__md", "---\n{: [}\n---\n", None),
        ("README__md", "---\nconfigs: 3\ndataset_info: [1, {features: x}]\n---\n", None),
    ],
)
def test_names_in_other_files_and_damaged_files(name, content, expected, tmp_path):
    found = described(tmp_path, **{name: content}).class_names(["label"])
    assert (found and found[0]) == expected


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({"_info__json": "{"}, "note: _info.json is not used: {folder}/_info.json is unreadable; expected JSON"),
        ({"README__md": "---\n{: [}\n---\n"}, "note: README.md is not used: {folder}/README.md is unreadable"),
        ({"classes__txt": "a\n\nb"}, "note: classes.txt is not used: line 2 of {folder}/classes.txt is empty"),
        ({"_info__json": {"classes": ["a", "b"]}, "classes__txt": "b\na\n"},
         "note: classes.txt and _info.json list different class names; those in _info.json are used"),
        ({"_info__json": {"classes": ["a", "b"]}, "classes__txt": "a\nb\n"}, None),
    ],
)  # fmt: skip
def test_damaged_and_contradictory_files_are_noted(files, note, tmp_path):
    notes = described(tmp_path, **files).notes
    assert len(notes) == (note is not None)
    assert not note or notes[0].startswith(note.format(folder=tmp_path)), notes


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ("[{config_name: a, data_files: x.tar}]", (Subset("a", ((None, "x.tar"),)),)),
        ("[{config_name: a, data_files: [x.tar, y.tar], default: true}]",
         (Subset("a", ((None, "x.tar"), (None, "y.tar")), True),)),
        ("[{data_files: [{split: train, path: [x, y]}, {split: test, path: z}]}]",
         (Subset("default", (("train", "x"), ("train", "y"), ("test", "z"))),)),
        ("[{config_name: a, data_files: {train: x, test: [y, z]}}]",
         (Subset("a", (("train", "x"), ("test", "y"), ("test", "z"))),)),
        ("[{config_name: a, data_dir: some/}]", (Subset("a", ((None, "some/**"),)),)),
        ("[{config_name: a}]", (Subset("a", ()),)),
    ],
)  # fmt: skip
def test_subsets_are_patterns_of_files(configs, expected, tmp_path):
    assert described(tmp_path, README__md=f"---\nconfigs: {configs}\n---\n").subsets == expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("data/train-*", "data/train-0.parquet", True),
        ("data/train-*", "data/deep/train-0.parquet", False),
        ("data", "data/deep/train-0.parquet", True),
        ("data/", "data2/x", False),
        ("**/*.tar", "a/b/c.tar", True),
        ("**/*.tar", "c.tar", True),
        ("a/**", "a/b/c.tar", True),
        ("*.tar", "a/c.tar", False),
        ("x-{000..010}.tar", "x-007.tar", True),
        ("x-{000..010}.tar", "x-7.tar", False),
        ("{train,val}/*.tar", "val/0.tar", True),
        ("x[0-3].tar", "x2.tar", True),
        ("x[!0-3].tar", "x2.tar", False),
        ("a+(b).tar", "a+(b).tar", True),
        ("x[z-a].tar", "x.tar", False),
        ("x?.tar", "x/.tar", False),
    ],
)
def test_patterns(pattern, path, expected):
    assert matches(pattern, path) is expected


def test_braces_are_names():
    assert list(expand_braces("a-{08..11}.tar")) == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert list(expand_braces("{a,b}{0..1}")) == ["a0", "a1", "b0", "b1"]
    assert list(expand_braces("{x}.tar")) == ["{x}.tar"]
    assert not is_pattern("plain/name-00000-of-00001.tar")


def test_folders_are_subsets_only_if_they_have_the_same_split():
    def found(*names, by_first=False):
        return [subset.name for subset in folders_as_subsets(names, by_first=by_first)]

    assert found("data/train-0.tar", "data/val-0.tar") == []
    assert found("train/0.tar", "val/0.tar", "test/images/0.tar") == []
    assert found("train/00/0.tar", "train/01/0.tar", "part-1/train-1.tar") == []
    assert found("cats/train-0.tar", "dogs/train-0.tar", "dogs/val-0.tar") == ["cats", "dogs"]
    assert found("cats/train-0.tar", "train-0.tar") == [".", "cats"]
    assert found("a/train/0.parquet", "b/test/0.parquet", by_first=True) == ["a", "b"]


def test_files_that_were_chosen_by_their_path_need_no_subset():
    names = [f"{folder}/{split}-0.tar" for folder in "ab" for split in ("train", "val")]
    subsets = [Subset(folder, (("train", f"{folder}/train*"), ("validation", f"{folder}/val*"))) for folder in "ab"]
    assert choose_files(names, subsets, "x", path="a").splits == {"a/train-0.tar": "train", "a/val-0.tar": "val"}
    with pytest.raises(UserError, match="x has several subsets, a, b: give one of them, such as x/a"):
        choose_files(names, subsets, "x", path="*/train*")
    whole = [*subsets, Subset("all", ((None, "**"),))]
    assert len(choose_files(names, whole, "x", path="*/train*").splits) == 2
    few = choose_files([*names, "c/train-0.tar"], whole[:1], "x")
    assert few.notes == ("not read: 3 files that are in no subset of the card, such as b/train-0.tar",)
    with pytest.raises(UserError, match="only the splits extra; expected train, validation or test"):
        choose_files(names, [Subset("default", (("extra", "**"),))], "x")


def test_shards_in_the_layout_of_imagenet_12k_have_the_classes_of_a_list(tmp_path, capsys):
    synsets = ("n01440764", "n02084071", "n00015388")  # the second and the third are not in ImageNet-1K
    for split, count in (("train", 3), ("validation", 1)):
        for number in range(count):
            shard = {}
            for label, synset in enumerate(synsets):
                key = f"{split}{number}{label}"
                shard |= {f"{key}.jpg": picture(number * 3 + label), f"{key}.cls": str(label).encode()}
                about = {"filename": f"{synset}/{synset}_{count}{number}.JPEG", "label": label, "width": 8, "height": 9}
                shard[f"{key}.json"] = json.dumps(about).encode()
            write_tar(tmp_path / "set" / f"imagenet12k-{split}-{number:04d}.tar", shard)
    filenames = ["imagenet12k-train-{0000..0002}.tar"]
    info = {"splits": {"train": {"num_samples": 9, "filenames": filenames}}}
    (tmp_path / "set" / "_info.json").write_text(json.dumps(info))
    (tmp_path / "synsets.txt").write_text("\n".join(synsets))
    arguments = ["webdataset", "--source", tmp_path / "set"]
    _, found = prepared(tmp_path / "out", *arguments, "--classes", tmp_path / "synsets.txt")
    assert found == {"train": dict.fromkeys(synsets, 3), "val": dict.fromkeys(synsets, 1)}
    assert prepared(tmp_path / "numbers", *arguments)[1]["val"] == {"0": 1, "1": 1, "2": 1}
    assert "shards on the card" not in capsys.readouterr().out
    (tmp_path / "set" / "imagenet12k-train-0002.tar").unlink()
    prepared(tmp_path / "fewer", *arguments)
    note = "note: 2 of the 3 shards on the card are present; missing: imagenet12k-train-0002.tar"
    assert note in capsys.readouterr().out
    (tmp_path / "synsets.txt").write_text("\n".join(reversed(synsets)))
    message = "the labels of train contradict the names of 4 of the 6 images"
    refused(message, *arguments, "--classes", tmp_path / "synsets.txt", "--out", tmp_path / "wrong")


def test_repeated_names_on_a_card_are_not_used(tmp_path, capsys):
    samples = {f"{key}{suffix}": content for key in range(2)
               for suffix, content in ((".jpg", picture(key)), (".cls", str(key).encode()))}  # fmt: skip
    write_tar(tmp_path / "set" / "train-0.tar", samples)
    (tmp_path / "set" / "classnames.txt").write_text("crane\ncrane\n")
    assert prepared(tmp_path / "out", "webdataset", "--source", tmp_path / "set")[1] == {"train": {"0": 1, "1": 1}}
    assert (
        "classnames.txt is not used: several classes have the name crane; give --classes FILE"
        in capsys.readouterr().out
    )


def test_a_test_split_without_labels_is_left_out(tmp_path):
    for split, label in (("train", "0"), ("test", "-1")):
        samples = {f"{split}{key}{suffix}": content for key in range(2)
                   for suffix, content in ((".jpg", picture(key)), (".cls", label.encode()))}  # fmt: skip
        write_tar(tmp_path / "set" / f"{split}-0.tar", samples)
    card, found = prepared(tmp_path / "out", "webdataset", "--source", tmp_path / "set")
    assert (found, card["rejected"]) == ({"train": {"0": 2}}, 0)
    assert card["left_out"]["test images without labels"] == 2
