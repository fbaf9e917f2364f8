"""Class names in Parquet files are used; a list of different classes is an error."""

import pytest

from focalnet_jax.data.class_lists import class_list, class_names
from tests.data.labelled import OWN, TRAIN, VAL
from tests.data.layouts import NUMBERS, SYNSETS, write_parquet, write_train, write_val
from tests.data.preparing import in_process, prepared, refused  # noqa: F401

pytestmark = pytest.mark.usefixtures("in_process")
WORDS = dict(zip(SYNSETS, ("cat", "ant", "bee"), strict=True))


def write_rows(root, labels, train_names, val_names=None):
    """Writes Parquet files with class names and without image paths; `labels` maps synsets to numbers."""
    train = [(None, content, labels[name[:9]]) for name, content in write_train(None).items()]
    val, synsets = write_val()
    rows = [(None, content, labels[synset]) for synset, content in zip(synsets, val.values(), strict=True)]
    write_parquet(root / "train.parquet", train, train_names)
    write_parquet(root / "val.parquet", rows, val_names or train_names)
    return root


def write_list(path, names):
    path.write_text("\n".join(names))
    return path


def test_the_order_of_classes_does_not_change_the_meaning_of_numbers_with_stated_names(tmp_path, capsys):
    source = write_rows(tmp_path / "set", OWN, list(WORDS.values()))
    for number, names in enumerate((["ant", "bee", "cat"], ["cat", "ant", "bee"], ["bee", "dog", "cat", "ant"])):
        listed = write_list(tmp_path / "classes.txt", names)
        card, found = prepared(tmp_path / f"{number}", "parquet", "--source", source, "--classes", listed)
        assert found["val"] == {"cat": 2, "ant": 2, "bee": 2}
        assert found["train"] == {"cat": 6, "ant": 4, "bee": 4}
        assert list(card["classes"]) == names
        assert ("its numeric labels are read with its own names" in capsys.readouterr().out) == (number != 1)


def test_words_and_synsets_of_a_class_are_the_same_name(tmp_path):
    words = [dict(class_list(1000))[synset] for synset in SYNSETS]
    source = write_rows(tmp_path / "set", OWN, words)
    listed = write_list(tmp_path / "classes.txt", SYNSETS[::-1])
    _, found = prepared(tmp_path / "out", "parquet", "--source", source, "--classes", listed)
    assert found == {"train": TRAIN, "val": VAL}


def test_a_list_of_other_classes_than_stated_is_refused(tmp_path):
    source = write_rows(tmp_path / "set", OWN, list(WORDS.values()))
    for names in (["Katze", "Ameise", "Biene"], ["cat", "dog", "bee"], ["cat", "ant"]):
        listed = write_list(tmp_path / "classes.txt", names)
        arguments = ["--source", source, "--classes", listed, "--out", tmp_path / "none"]
        refused("the class names of column label are not those of --classes", "parquet", *arguments)


def test_placeholders_and_repeated_names_are_renamed_by_the_list(tmp_path):
    listed = write_list(tmp_path / "classes.txt", WORDS.values())
    for number, names in enumerate((["0", "1", "2"], ["class_1", "class_2", "class_3"], ["x", "ant", "x"])):
        source = write_rows(tmp_path / f"set{number}", OWN, names)
        _, found = prepared(tmp_path / f"out{number}", "parquet", "--source", source, "--classes", listed)
        assert found["train"] == {"cat": 6, "ant": 4, "bee": 4}


def test_imagenets_stated_names_prevail_over_another_order(tmp_path):
    source = write_rows(tmp_path / "set", NUMBERS, class_names(1000))
    lemmas = dict(class_list(1000))
    listed = write_list(tmp_path / "classes.txt", sorted(lemmas, key=lemmas.get))
    _, found = prepared(tmp_path / "out", "imagenet1k", "--source", source, "--classes", listed)
    assert found == {"train": TRAIN, "val": VAL}


def test_a_file_that_states_fewer_classes_is_read_by_its_own_names(tmp_path):
    source = write_rows(tmp_path / "set", OWN, ["cat", "ant", "bee", "dog"], ["cat", "ant", "bee"])
    _, found = prepared(tmp_path / "out", "parquet", "--source", source)
    assert found["val"] == {"cat": 2, "ant": 2, "bee": 2}
    source = write_rows(tmp_path / "other", OWN, ["dog", "cat", "ant", "bee"], ["cat", "ant", "bee"])
    _, found = prepared(tmp_path / "out2", "parquet", "--source", source)
    assert found["train"] == {"dog": 6, "cat": 4, "ant": 4}
    assert found["val"] == {"cat": 2, "ant": 2, "bee": 2}
    source = write_rows(tmp_path / "others", OWN, ["dog", "cat", "ant"], ["cat", "ant", "bee"])
    refused("contain different class names", "parquet", "--source", source, "--out", tmp_path / "none")


def test_numbers_of_a_file_without_names_follow_no_order_in_silence(tmp_path):
    source = write_rows(tmp_path / "set", OWN, list(WORDS.values()))
    val, synsets = write_val()
    rows = [(None, content, OWN[synset]) for synset, content in zip(synsets, val.values(), strict=True)]
    write_parquet(source / "val.parquet", rows)
    arguments = ["parquet", "--source", source, "--out", tmp_path / "out"]
    refused("train.parquet contains class names, but", *arguments)
    listed = write_list(tmp_path / "sorted.txt", sorted(WORDS.values()))
    refused("contains none, so its numbers may have either order", *arguments, "--classes", listed)
    listed = write_list(tmp_path / "classes.txt", WORDS.values())
    _, found = prepared(tmp_path / "out", "parquet", "--source", source, "--classes", listed)
    assert found["val"] == dict.fromkeys(WORDS.values(), 2)


def test_labels_in_words_need_no_order(tmp_path):
    source = write_rows(tmp_path / "set", OWN, list(WORDS.values()))
    val, synsets = write_val()
    rows = [(None, content, WORDS[synset]) for synset, content in zip(synsets, val.values(), strict=True)]
    write_parquet(source / "val.parquet", rows)
    listed = write_list(tmp_path / "classes.txt", sorted(WORDS.values()))
    _, found = prepared(tmp_path / "out", "parquet", "--source", source, "--classes", listed)
    assert found["val"] == dict.fromkeys(WORDS.values(), 2)


def test_numbers_from_1_are_refused_where_the_file_states_names(tmp_path):
    from_1 = {synset: number + 1 for synset, number in OWN.items()}
    source = write_rows(tmp_path / "set", from_1, list(WORDS.values()))
    told = "they seem to start at 1: correct the labels; the class names in the file are numbered from 0"
    refused(told, "parquet", "--source", source, "--out", tmp_path / "out")
