"""What docs/reliability.md promises is what the tests show."""

from tests.faults.table import DOCUMENT, proofs, written


def test_every_row_has_its_test():
    assert not [row for row, tests in proofs().items() if not tests]


def test_the_table_is_that_of_the_tests():
    text = DOCUMENT.read_text()
    assert written(text) == text, "python -m tests.faults.table"
