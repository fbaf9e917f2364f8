"""The table in docs/reliability.md, from the tests that prove it: python -m tests.faults.table."""

import re
from pathlib import Path

DOCUMENT = Path("docs/reliability.md")
MARK_OR_TEST = re.compile(r"^(?:@pytest\.mark\.fault\((\d+)\)|def test_(\w+))", re.MULTILINE)
BEGIN, END = "<!-- python -m tests.faults.table writes from here -->\n", "<!-- to here -->"

# What goes wrong, and what happens then. A test is marked with the number of the row it proves.
ROWS = {
    1: ("kill -9 in a save", "the run goes on from the newest step that was finished"),
    2: ("kill -9 in a deletion", "what is left of the step is no checkpoint"),
    3: ("a cut file in a checkpoint", "found, named, set aside; the run goes on from the step before"),
    4: ("a flipped bit in a checkpoint", "found by its SHA-256; as 3"),
    5: ("every checkpoint is damaged", "refused, nothing changed; never silently begun anew"),
    6: ("an empty or foreign directory among the steps", "set aside with a warning"),
    7: ("the disk is full", "one line, exit code 1; what was saved stays"),
    8: ("a workdir that cannot be written", "refused before anything is compiled"),
    9: ("a workdir of another config", "refused with the difference"),
    10: ("two runs in one workdir", "the second is refused, with host, process and since when"),
    11: ("the lock of a run that was killed", "taken over"),
    12: (
        "SIGTERM, SIGINT or SIGKILL",
        "a signal costs no step, a kill those after the newest finished save; then bit for bit the same",
    ),
    13: ("SIGTERM to one of several processes", "all save the same step and exit with 42"),
    14: ("SIGTERM while it compiles or no data come", "saved if that can be, else ended at the deadline"),
    15: ("one of several processes is killed", "the others end within 15 s, not with 0"),
    16: ("nothing moves any more", "the run ends and says where it stands still"),
    17: ("a reading process dies", "the run ends with a line"),
    18: ("another number of devices", "restored to the bit"),
    19: ("another number of processes", "goes on with the same batches; losses within 1e-5"),
    20: ("a batch that does not divide", "refused with the nearest that do"),
    21: ("a checkpoint of another model", "refused, the differing parameters named"),
    22: ("another number of classes", "refused; a fresh classifier only where asked for"),
    23: ("weights of another dtype", "a cast is said in the report"),
    24: ("a typo or a wrong type in a setting", "one line with what was probably meant, exit code 2"),
    25: ("a loss or gradient that is no number", "its update is not made; too many end the run; none is saved"),
    26: ("a loss that leaps", "the same, where `health.spike_factor` asks for it; what is skipped never becomes usual"),
    27: ("an evaluation that is no number", "never the best"),
    28: ("a clock that went wrong", "steps are ordered by number"),
    29: ("a cut picture", "the next one stands for it, counted and named; too many end the run"),
    30: ("a file that is no picture", "as 29"),
    31: ("CMYK, grey, transparent, palette; PNG named .jpg", "decoded to RGB"),
    32: ("16 bits a channel", "scaled to 8"),
    33: ("a picture of 100 megapixels or more", "refused before it is decoded"),
    34: ("1x1, 1x5000 and odd sizes", "the size asked for"),
    35: ("EXIF orientation", "not applied, as in the recipes"),
    36: ("a missing or empty class folder", "refused, named"),
    37: ("a label outside the classes, or none", "refused"),
    38: ("no validation split", "refused, named"),
    39: ("a last batch that is not full", "every example counts once"),
    40: ("a malicious pickle", "refused, nothing of it is run"),
    41: ("a tar with ../ or links", "refused"),
    42: ("a save that fails in the background", "the run fails with a line"),
    43: ("a finished run started again", "nothing is done, exit code 0"),
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
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
