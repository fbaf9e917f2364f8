"""The table in docs/reliability.md lists exactly the tests that prove it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.table import DOCUMENT, proofs, written


def test_every_row_has_its_test():
    assert not [row for row, tests in proofs().items() if not tests]


def test_the_table_is_that_of_the_tests():
    text = DOCUMENT.read_text()
    assert written(text) == text, "python -m tests.faults.table"


def test_the_help_of_the_table_writes_nothing():
    before = DOCUMENT.stat().st_mtime_ns
    done = subprocess.run([sys.executable, "-m", "tests.faults.table", "--help"], capture_output=True, text=True)
    assert (done.returncode, DOCUMENT.stat().st_mtime_ns) == (0, before)
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("file", ["parity/golden.py", "parity/report.py"])
def test_programs_that_write_tracked_files_parse_their_arguments_first(file):
    program = ast.parse(Path(file).read_text()).body[-1]  # parsed, not imported: they need torch, which may be missing
    assert isinstance(program, ast.If), f"{file} does not end with its program"
    assert "parse_args()" in ast.unparse(program)
