"""Files of small data sets for the tests of the hub."""

from tests.data.layouts import write_parquet
from tests.data.pictures import picture


def files_in(folder):
    """Returns the files in a folder by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder, first, count, names=None, splits=("train", "val")):
    """Writes a Parquet file per split with `count` images; returns the files by path."""
    for place, split in enumerate(splits):
        made = [(f"{n}.jpg", picture(n), n % 2) for n in range(first + place * 30, first + place * 30 + count)]
        write_parquet(folder / f"{split}-00000-of-00001.parquet", made, names)
    return files_in(folder)


def card(*subsets, extra=""):
    """Returns a README.md with subsets (name, {split: pattern})."""
    lines = ["---", "license: mit", *(["configs:"] if subsets else [])]
    for name, patterns in subsets:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, pattern in patterns.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    return "\n".join([*lines, extra, "---", "# Pictures", ""]).encode()


def by_prefix(prefix, splits=("train", "val")):
    """Returns the pattern of each split in a folder."""
    return {split: f"{prefix}{split}-*" for split in splits}
