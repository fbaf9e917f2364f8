"""Writes the table in docs/reliability.md from the tests that prove its rows: python -m tests.faults.table."""

import argparse
import re
from pathlib import Path

DOCUMENT = Path("docs/reliability.md")
MARK_OR_TEST = re.compile(r"^(?:@pytest\.mark\.fault\((\d+)\)|def test_(\w+))", re.MULTILINE)
BEGIN, END = "<!-- python -m tests.faults.table writes from here -->\n", "<!-- to here -->"

# Row number: (fault, what happens). `@pytest.mark.fault(ROW)` marks the tests that prove a row.
ROWS = {
    1: ("kill -9 during a save", "the run resumes from the newest complete checkpoint"),
    2: ("kill -9 during a deletion", "the rest of the step does not count as a checkpoint"),
    3: ("a truncated file in a checkpoint", "detected, reported, set aside; the run resumes from the step before"),
    4: ("a flipped bit in a checkpoint", "detected by its SHA-256, then handled as in row 3"),
    5: ("every checkpoint is damaged", "an error, and nothing changes; the run never silently restarts from step 0"),
    6: ("an empty or foreign directory among the steps", "set aside with a warning"),
    7: ("the disk is full", "a one-line error and exit code 1; saved checkpoints are kept"),
    8: ("a workdir that cannot be written", "an error before anything is compiled"),
    9: ("a workdir of a run with a different config", "an error that shows the difference"),
    10: ("two runs in one workdir", "an error in the second that names host, process and start time of the first"),
    11: ("the lock of a killed run", "taken over"),
    12: (
        "SIGTERM, SIGINT or SIGKILL",
        "SIGTERM or SIGINT: no step is lost; SIGKILL: the steps after the newest checkpoint are computed again; the "
        "result is bitwise identical",
    ),
    13: ("SIGTERM to one of several processes", "all save the same step and exit with 42"),
    14: ("SIGTERM while a run compiles or waits for data", "saves if possible, otherwise ends after `grace_seconds`"),
    15: ("one of several processes is killed", "the others end within 15 s, with an exit code other than 0"),
    16: ("no progress (a hang)", "the run ends and prints the stack traces of its threads"),
    17: ("a reading process dies", "the run ends with a one-line error"),
    18: ("a different number of devices", "the restored state is bitwise equal"),
    19: ("a different number of processes", "resumes with the same batches; losses agree within 1e-5"),
    20: ("a batch size that is not a multiple of the number of devices", "an error with the nearest valid sizes"),
    21: ("a checkpoint of a different model", "an error that names the differing parameters"),
    22: ("a different number of classes", "an error; a new classifier only with `init_head=drop`"),
    23: ("weights of a different dtype", "the report states the cast"),
    24: ("a typo or a wrong type in a setting", "a one-line error with a suggestion, exit code 2"),
    25: (
        "a NaN or infinite loss or gradient",
        "the update is skipped; too many in a row end the run; NaN or infinite parameters are never saved",
    ),
    26: (
        "a loss spike",
        "as in row 25, if `health.spike_factor` is set; skipped losses do not count towards the running mean",
    ),
    27: ("a NaN metric in an evaluation", "never ranked as the best"),
    28: ("a wrong clock", "steps are ordered by number"),
    29: ("a truncated image", "replaced by the next image, counted and reported; too many end the run"),
    30: ("a file that is not an image", "as in row 29"),
    31: ("CMYK, grey, transparent, palette; PNG named .jpg", "decoded to RGB"),
    32: ("16 bits per channel", "scaled to 8"),
    33: ("an image of more than 100 megapixels", "rejected before it is decoded"),
    34: ("1x1, 1x5000 and odd sizes", "resized to the configured size"),
    35: ("EXIF orientation", "not applied, as in torchvision and timm"),
    36: ("a missing or empty class folder", "an error that names it"),
    37: ("a label outside the classes, or a missing label", "an error"),
    38: ("no validation split", "an error that names it"),
    39: ("a last batch that is not full", "every example counts once"),
    40: ("a malicious pickle", "an error; nothing in it is executed"),
    41: ("a tar with ../ or links", "an error"),
    42: ("a save that fails in the background", "the run fails with a one-line error"),
    43: ("a finished run is started again", "nothing is done, exit code 0"),
    44: ("a bucket that answers 429 or 5xx, or cuts connections", "requests are repeated; no save is lost"),
    45: (
        "a bucket that answers slowly or not at all",
        "the run trains on and saves when the bucket answers; after 10 minutes it ends and names the last good step",
    ),
    46: ("kill -9 during a save or a deletion in a bucket", "as in rows 1 and 2; the rest is removed"),
    47: ("a run loses its permission to write to its bucket", "a one-line error that names the last good step"),
    48: (
        "two runs in one workdir in a bucket",
        "as in row 10; the lock of a run that no longer renews it is taken over",
    ),
    49: (
        "a run of several processes in a bucket whose requests fail, resumed with another number of processes",
        "as in rows 44 and 19",
    ),
    50: (
        "a bucket that may not be read, or expired credentials",
        "a one-line error before anything is compiled, exit code 2",
    ),
    51: (
        "a bucket that cannot be read, or whose answers stall",
        "a one-line error and exit code 1; nothing is changed, and no step counts as damaged",
    ),
    52: ("a byte that the network changes", "read again; a step is damaged only if a second read differs too"),
    53: (
        "a mask that is missing, damaged, a JPEG, of another size, or with a label outside the classes",
        "as in row 29; an error in evaluation; rejected and listed by `data.prepare`",
    ),
    54: ("an EXIF orientation that may turn the image away from its mask", "the mask is turned back, or as in row 53"),
    55: ("images without masks, a folder of images only", "left out and counted in training, otherwise an error"),
    56: ("a zip archive that is truncated, damaged or not the expected one", "an error that names it"),
    57: ("crops or batches of ignored pixels only", "their loss and its gradient are 0; the run continues"),
    58: (
        "a box of zero or negative size, outside of the image or NaN; a damaged polygon or run-length encoding; an "
        "unknown class or image",
        "not used, left out or corrected as in mmdetection; counted by kind, with ids of annotations",
    ),
    59: (
        "a COCO file that is cut short, with repeated ids, or without sizes, names or images",
        "an error that names the entry",
    ),
}


def proofs() -> dict[int, list[str]]:
    """Returns the tests of every row, as `file: name`."""
    found: dict[int, list[str]] = {row: [] for row in ROWS}
    for path in sorted([*Path("tests").rglob("test_*.py"), *Path("parity").glob("test_*.py")]):
        marks: list[int] = []
        for row, name in MARK_OR_TEST.findall(path.read_text()):
            if row:
                marks.append(int(row))
                continue
            for mark in marks:
                found[mark].append(f"`{path}`: {name.replace('_', ' ')}")
            marks = []
    return found


def table() -> str:
    """Returns the table in Markdown."""
    lines = ["| | fault | what happens | shown by |", "|---|---|---|---|"]
    for row, tests in proofs().items():
        fault, happens = ROWS[row]
        lines.append(f"| {row} | {fault} | {happens} | {'; '.join(tests)} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """Returns the document `text` with its table replaced."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:begin]}\n{table()}\n\n{text[end:]}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
