"""The lists of ImageNet's classes have the right names and order."""

from focalnet_jax.data.class_lists import NUM_1K, NUM_22K, output_names, short_names


def test_classes_with_equal_first_lemmas_are_distinguished():
    assert short_names(["crane", "crane, a bird", "tench, Tinca tinca"]) == ["crane", "crane, a bird", "tench"]
    assert short_names(["a, x", "a, x", "b"]) == ["a, x (0)", "a, x (1)", "b"]
    assert short_names(output_names(NUM_1K))[638:640] == ["maillot", "maillot, tank suit"]
    for count in (NUM_1K, NUM_22K):
        assert len(set(short_names(output_names(count)))) == count
