"""Builds focalnet_jax/data/classes/ from the lists that timm ships: python scripts/class_lists.py (needs timm).

Origin: synset ids and lemmas are WordNet 3.0's, as timm's package lists them (timm/data/_info): ImageNet-1K in sorted
order, and the 22K order of Microsoft's models, whose first 1000 are ImageNet-1K. The script checks that the 22K list is
what it should be: 1K sorted, then the other synsets sorted, 21842 in all.
"""

from pathlib import Path

import timm.data

OUT = Path(__file__).parent.parent / "focalnet_jax" / "data" / "classes"
# Of the 22K list this one has no images in the fall 2011 release: the heads' row 850 was never trained.
WITHOUT_IMAGES = "n04399382"


def main() -> None:
    """Writes both lists, a line a class: synset id, tab, lemmas."""
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
        raise SystemExit("timm's lists are not in the expected order; nothing written")
    OUT.mkdir(exist_ok=True)
    for name, classes in (("imagenet1k", classes_1k), ("imagenet22k", classes_22k)):
        text = "".join(f"{synset}\t{lemmas[synset]}\n" for synset in classes)
        (OUT / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    main()
