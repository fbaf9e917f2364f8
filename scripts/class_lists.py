"""Builds focalnet_jax/data/classes/ from timm's class lists: python scripts/class_lists.py (needs timm).

Synset ids and lemmas are WordNet 3.0's, from timm/data/_info. The ImageNet-1K list is in sorted order. The ImageNet-22K
list is in the order of the outputs of Microsoft's models. The script checks that it has 21842 synsets: those of
ImageNet-1K sorted, then all others sorted.
"""

from pathlib import Path

import timm.data

OUT = Path(__file__).parent.parent / "focalnet_jax" / "data" / "classes"
# This synset has no images in the fall 2011 release, so row 850 of the released classifiers was never trained.
WITHOUT_IMAGES = "n04399382"


def main() -> None:
    """Writes both lists; each line has a synset id, a tab and the lemmas of a class."""
    source = Path(timm.data.__file__).parent / "_info"
    lines = (source / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    classes_1k = (source / "imagenet_synsets.txt").read_text().split()
    classes_22k = (source / "imagenet22k_ms_synsets.txt").read_text().split()
    rest = classes_22k[1000:]
    if not (
        (len(classes_1k), len(classes_22k)) == (1000, 21842)
        and classes_22k[:1000] == classes_1k == sorted(classes_1k)
        and rest == sorted(rest)
        and len(set(classes_22k)) == 21842
        and classes_22k[850] == WITHOUT_IMAGES
    ):
        raise SystemExit("timm's class lists are not in the expected order; nothing was written")
    OUT.mkdir(exist_ok=True)
    for name, classes in (("imagenet1k", classes_1k), ("imagenet22k", classes_22k)):
        text = "".join(f"{synset}\t{lemmas[synset]}\n" for synset in classes)
        (OUT / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    main()
