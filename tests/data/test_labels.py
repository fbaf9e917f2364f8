"""Classes of data sets are matched with a classifier's by their names, never by their positions."""

import json
import pickle

import numpy as np
import pytest

from focalnet_jax.data.balance import labels_of
from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, class_list, class_names, output_names
from focalnet_jax.data.folder_source import FolderSource
from focalnet_jax.data.labels import Classes, classes_of, match_classes
from focalnet_jax.data.relabelled import Relabelled, labels_present
from focalnet_jax.errors import UserError
from tests.data.pictures import write_colours

SYNSETS = [synset for synset, _ in class_list(NUM_1K)]
WORDS = [words for _, words in class_list(NUM_1K)]
FIRST = [words.split(",")[0] for words in WORDS]
IMAGENETTE = {
    "n01440764": 0, "n02102040": 217, "n02979186": 482, "n03000684": 491, "n03028079": 497,
    "n03394916": 566, "n03417042": 569, "n03425413": 571, "n03445777": 574, "n03888257": 701,
}  # fmt: skip
IMAGENETTE_WORDS = (
    "tench", "English springer", "cassette player", "chain saw", "church",
    "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
)  # fmt: skip
IN_1K, IN_22K = (classes_of(count, None, "") for count in (NUM_1K, NUM_22K))


def called(names, exact=False):
    return Classes(tuple(names), "id2label", exact)


def match(names, classes, outputs=1000, **options):
    return match_classes(names, classes, outputs=outputs, data="split val", classifier="w", **options)


def refused(message, names, classes, outputs=1000, **options):
    with pytest.raises(UserError, match=message):
        match(names, classes, outputs, **options)


@pytest.mark.parametrize("classes", [IN_1K, IN_22K, called(WORDS), called(FIRST), called(class_names(NUM_1K))])
@pytest.mark.parametrize("order", [1, -1])
def test_synset_folders_are_matched_to_imagenets_lists(classes, order):
    names = list(IMAGENETTE)[::order]
    found = match(names, classes)
    assert found.outputs.tolist() == [IMAGENETTE[name] for name in names]
    assert found.how == "synset id"


def test_a_synset_may_have_words_beside_it():
    assert match(["n02085620-Chihuahua", "n02085936_Maltese_dog"], IN_1K).outputs.tolist() == [151, 153]
    assert match(["crane (n03126707)"], IN_1K).outputs.tolist() == [517]


def test_separators_count_where_they_make_another_number():
    sizes = called(["15", "1.5", "-5", "5", "type_2"])
    assert match(["type 2", "1.5 ", "-5"], sizes, 5).outputs.tolist() == [4, 1, 2]
    refused("lacks: 2.5, 1_5", ["2.5", "1_5", "type-2"], called(["25", "15", "type 2"]), 3)


def test_the_order_of_the_outputs_is_theirs():
    reversed_list = called(class_names(NUM_1K)[::-1])
    assert match(list(IMAGENETTE), reversed_list).outputs.tolist() == [999 - label for label in IMAGENETTE.values()]
    assert match(SYNSETS, reversed_list).outputs.tolist() == list(range(1000))[::-1]
    assert match(list(IMAGENETTE), called(IMAGENETTE_WORDS)).outputs.tolist() == list(range(10))
    assert match(["d", "a"], called("abcd", exact=True)).outputs.tolist() == [3, 0]


def test_all_classes_of_imagenet_are_found_by_their_words():
    assert match(class_names(NUM_1K), IN_1K).outputs.tolist() == list(range(1000))


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("tench", 0),
        ("Tench", 0),
        ("tench, Tinca tinca", 0),
        ("Tinca_tinca", 0),
        ("english-springer", 217),
        ("English_springer", 217),
        ("chainsaw", 491),
        ("hot dog", 934),
        ("tank suit, maillot", 639),
        ("maillot, tank suit", 639),
        ("St. Bernard", 247),
        ("jack-o'-lantern", 607),
    ],
)
@pytest.mark.parametrize("classes", [IN_1K, called(WORDS)])
def test_words_are_compared_without_case_and_separators(name, output, classes):
    assert match([name], classes).outputs.tolist() == [output]


@pytest.mark.parametrize("classes", [IN_1K, IN_22K, called(WORDS)])
def test_an_ambiguous_name_is_refused_with_what_it_may_be(classes):
    refused(r"crane of split val may be n02012849 .* or n03126707", ["tench", "crane"], classes)
    refused(r"maillot of split val may be n03710637 \(maillot\) or n03710721", ["maillot"], classes)


def test_a_name_does_not_match_a_class_that_another_name_equals():
    assert match(["maillot", "maillot, tank suit"], IN_1K).outputs.tolist() == [638, 639]
    assert match(["crane", "n02012849"], IN_1K).outputs.tolist() == [517, 134]
    refused("crane, which it lacks", ["crane"], called(["n02012849"], exact=True))


def test_two_classes_of_the_data_may_not_be_one_of_the_classifier():
    refused("tench and n01440764 of split val are the same class", ["tench", "n01440764"], IN_1K)
    refused("001 and 1 of split val are the same class", ["001", "1"], None)


def test_class_names_that_are_numbers_mean_outputs():
    assert match(["0", "2", "10"], None, 11).outputs.tolist() == [0, 2, 10]
    assert match(["000", "010", "999"], IN_1K).outputs.tolist() == [0, 10, 999]
    assert match(["1", "0"], called(["cat", "dog"], exact=True)).outputs.tolist() == [1, 0]
    refused("but w has the outputs 0 to 9, not 10", [str(number) for number in range(1, 11)], None, 10)
    refused("are unknown", ["0", "1", "cat"], None, 10)
    refused("lacks: 0, 1", ["0", "1"], called(["cat", "dog"]), numbers=False)


def test_numbers_that_are_names_of_the_classifier_are_these_names():
    as_text = called(["0", "1", "10", "2"], exact=True)  # as stored by earlier versions
    assert match(["0", "1", "2", "10"], as_text).outputs.tolist() == [0, 1, 3, 2]
    assert match(["00", "02"], as_text).outputs.tolist() == [0, 3]
    refused("lacks: 3", ["0", "3"], as_text)
    assert match(["5", "7"], called(["7", "cat", "5"])).outputs.tolist() == [2, 0]


def test_names_of_one_run_are_compared_to_the_letter_first():
    assert match(["b", "B"], called(["B", "b"], exact=True)).outputs.tolist() == [1, 0]
    assert match(["Paris, Texas"], called(["Paris, France", "Paris, Texas"], exact=True)).outputs.tolist() == [1]
    assert match(["Cat"], called(["dog", "cat"], exact=True)).outputs.tolist() == [1]
    found = match(["b", "a"], called(["b", "a"], exact=True))
    assert (found.outputs.tolist(), found.how) == ([0, 1], "")


def test_nothing_is_matched_by_position():
    refused(r"the names of the 2 outputs of w are unknown, .*\(cat, dog\).*data.classes=FILE", ["cat", "dog"], None, 2)
    refused("2 classes that w lacks: cat, dog", ["cat", "dog"], IN_1K)
    refused(r"1 class that w lacks: cat \(1 other matches\)", ["cat", "tench"], IN_1K)
    refused(
        r"Remove their examples from split val to evaluate the other.*data.classes=FILE",
        ["cat", "tench"],
        IN_1K,
    )
    refused("lacks: n99999999", ["n99999999"], IN_22K)
    refused("lacks: lion, tiger", ["lion", "tiger"], called(["cat", "dog"]), 2)
    assert classes_of(10, None, "w") is None
    assert classes_of(1000, (), "w") is None  # a classifier that was never trained


@pytest.mark.parametrize("names", [SYNSETS, WORDS, FIRST])
def test_an_output_with_a_name_of_its_own_is_no_class_of_imagenet(names):
    changed = called([*names[:5], "my special fish", *names[6:]])
    refused("lacks: n01496331", ["n01440764", "n01496331"], changed)
    assert match(["n01440764", "My_special_fish", "n02102040"], changed).outputs.tolist() == [0, 5, 217]
    swapped = called([*names[:5], names[6], names[5], *names[7:]])
    assert match(["n01498041", "n01496331"], swapped).outputs.tolist() == [5, 6]


def test_a_class_without_examples_need_not_be_found():
    found = match(["n01440764", "n99999999"], IN_1K, present=[0])
    assert found.outputs.tolist() == [0, -1]
    refused("lacks: n99999999", ["n01440764", "n99999999"], IN_1K, present=[0, 1])


def test_only_the_first_outputs_may_compete():
    first = IN_22K.first(1000)
    assert match(list(IMAGENETTE), first).outputs.tolist() == list(IMAGENETTE.values())
    refused("lacks: n00004475", ["n00004475"], first)


def test_a_relabelled_source_differs_in_labels_alone(tmp_path):
    write_colours(tmp_path)
    source = FolderSource(str(tmp_path), "train")
    relabelled = Relabelled(source, ("red", "green", "blue"), np.array([2, 0], np.int32))
    assert [relabelled[index][1] for index in range(6)] == [2, 2, 2, 0, 0, 0]
    assert relabelled[0][1].dtype == np.int32
    assert relabelled[0][1].ndim == 0
    assert [relabelled[index][0] for index in range(6)] == [source[index][0] for index in range(6)]
    assert (len(relabelled), relabelled.name(5)) == (len(source), source.name(5))
    assert relabelled.fingerprint == source.fingerprint
    assert labels_present(source).tolist() == [0, 1]
    assert labels_present(relabelled).tolist() == [0, 2]
    again = pickle.loads(pickle.dumps(relabelled))  # reading processes receive a pickled copy
    assert [again[index][1] for index in range(6)] == again.labels.tolist() == labels_of(relabelled).tolist()


def test_all_labels_of_an_example_are_relabelled():
    class Real:
        class_names = ("a", "b", "c")
        fingerprint = ""

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return b"", np.array([[0, 2, -1], [-1, -1, -1]], np.int32)[index]

        def name(self, index):
            return str(index)

    relabelled = Relabelled(Real(), ("c", "b", "a"), np.array([2, 1, 0], np.int32))
    assert [relabelled[index][1].tolist() for index in range(2)] == [[2, 0, -1], [-1, -1, -1]]
    assert labels_present(relabelled).tolist() == [0, 2]


def test_synset_ids_are_shown_in_words_and_found_again_by_them():
    names = ["n02102040", "n03126707", "n03710637", "n00004475"]
    words = output_names(4, names)
    assert words[0] == "English springer, English springer spaniel"
    assert match(names, called(words), 4).outputs.tolist() == [0, 1, 2, 3]
    assert output_names(3, ["cat", "n02102040"]) == ["cat", "n02102040", "LABEL_2"]
    assert json.loads(json.dumps(words)) == words
