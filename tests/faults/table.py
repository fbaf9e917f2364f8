"""The table in docs/reliability.md, from the tests that prove it: python -m tests.faults.table."""

import argparse
import re
from pathlib import Path

DOCUMENT = Path("docs/reliability.md")
MARK_OR_TEST = re.compile(r"^(?:@pytest\.mark\.fault\((\d+)\)|def test_(\w+))", re.MULTILINE)
BEGIN, END = "<!-- python -m tests.faults.table writes from here -->\n", "<!-- to here -->"

# What goes wrong, and what happens then. A test is marked with the number of the row it proves.
ROWS = {
    1: ("kill -9 during a save", "the run resumes from the newest complete checkpoint"),
    2: ("kill -9 during a deletion", "the rest of the step does not count as a checkpoint"),
    3: ("a truncated file in a checkpoint", "detected, reported, set aside; the run resumes from the step before"),
    4: ("a flipped bit in a checkpoint", "detected by its SHA-256, then handled as in row 3"),
    5: ("every checkpoint is damaged", "an error, and nothing changes; the run never silently restarts from step 0"),
    6: ("an empty or foreign directory among the steps", "set aside with a warning"),
    7: ("the disk is full", "a one-line error and exit code 1; saved checkpoints are kept"),
    8: ("a workdir that cannot be written", "an error before anything is compiled"),
    9: ("a workdir of another config", "an error that shows the difference"),
    10: ("two runs in one workdir", "an error in the second, with host, process and start of the first"),
    11: ("the lock of a killed run", "taken over"),
    12: (
        "SIGTERM, SIGINT or SIGKILL",
        "a signal loses no steps; SIGKILL loses those after the newest complete save; resuming is bit-identical",
    ),
    13: ("SIGTERM to one of several processes", "all save the same step and exit with 42"),
    14: ("SIGTERM while it compiles or waits for data", "saves if possible, otherwise ends at the deadline"),
    15: ("one of several processes is killed", "the others end within 15 s, with an exit code other than 0"),
    16: ("no progress (a hang)", "the run ends and reports where it hangs"),
    17: ("a reading process dies", "the run ends with a one-line error"),
    18: ("another number of devices", "restored bit for bit"),
    19: ("another number of processes", "resumes with the same batches; losses agree within 1e-5"),
    20: ("a batch size that the devices do not divide", "an error with the nearest valid sizes"),
    21: ("a checkpoint of another model", "an error that names the differing parameters"),
    22: ("another number of classes", "an error; a fresh classifier only on request"),
    23: ("weights of another dtype", "the report names the cast"),
    24: ("a typo or a wrong type in a setting", "an error of one line with a suggestion, exit code 2"),
    25: (
        "a NaN or infinite loss or gradient",
        "the update is skipped; too many in a row end the run; no such state is saved",
    ),
    26: (
        "a loss spike",
        "the same, if `health.spike_factor` is set; skipped losses do not count towards the running mean",
    ),
    27: ("a NaN in an evaluation", "never ranked as the best"),
    28: ("a wrong clock", "steps are ordered by number"),
    29: ("a truncated image", "replaced by the next one, counted and reported; too many end the run"),
    30: ("a file that is not an image", "as 29"),
    31: ("CMYK, grey, transparent, palette; PNG named .jpg", "decoded to RGB"),
    32: ("16 bits per channel", "scaled to 8"),
    33: ("an image of more than 100 megapixels", "rejected before it is decoded"),
    34: ("1x1, 1x5000 and odd sizes", "resized to the configured size"),
    35: ("EXIF orientation", "not applied, as in the recipes"),
    36: ("a missing or empty class folder", "an error that names it"),
    37: ("a label outside the classes, or none", "an error"),
    38: ("no validation split", "an error that names it"),
    39: ("a last batch that is not full", "every example counts once"),
    40: ("a malicious pickle", "an error; nothing in it is executed"),
    41: ("a tar with ../ or links", "an error"),
    42: ("a save that fails in the background", "the run fails with a one-line error"),
    43: ("a finished run is started again", "nothing is done, exit code 0"),
}


def proofs() -> dict[int, list[str]]:
    """The tests of every row, as `file: name`."""
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
    """The table in Markdown."""
    lines = ["| | fault | what happens | shown by |", "|---|---|---|---|"]
    for row, tests in proofs().items():
        fault, happens = ROWS[row]
        lines.append(f"| {row} | {fault} | {happens} | {'; '.join(tests)} |")
    return "\n".join(lines)


def written(text: str) -> str:
    """The document with the table in it."""
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:begin]}\n{table()}\n\n{text[end:]}"


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
