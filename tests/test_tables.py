"""Bad rows of a file: tolerated up to a number, and named where they are more. (Reading: test_mtk_text_reading.py.)"""

from __future__ import annotations

import pytest

from mtk import BadRow, DataError, check_bad_rows

BAD = [BadRow("a.csv", line, "no label", known=line == 4) for line in (3, 4, 7)]


def test_where_and_why() -> None:
    assert [str(row) for row in BAD[:2]] == ["a.csv:3: no label", "a.csv:4: no label (known in the published file)"]


@pytest.mark.parametrize("tolerated", [2, 3])
def test_known_rows_do_not_count(tolerated: int) -> None:
    check_bad_rows(BAD, tolerated, "skip={count}")


@pytest.mark.parametrize("skip, way", [("", ""), ("skip={count} in {a}", ", or skip=2 in {a}")])
def test_more_than_are_tolerated_is_one_line(skip: str, way: str) -> None:
    with pytest.raises(DataError) as found:
        check_bad_rows(BAD, 1, skip)
    assert str(found.value) == f"a.csv:3: no label (2 bad rows in this file; also in line 7); mend the file{way}"


def test_many_lines_are_cut_and_one_is_not_counted() -> None:
    rows = [BadRow("a.csv", line, "no label") for line in range(2, 13)]
    with pytest.raises(DataError, match=r"a.csv:2: no label \(11 bad .* lines 3, 4, 5, 6, 7, 8, 9, 10, \.\.\.\)"):
        check_bad_rows(rows, 0)
    with pytest.raises(DataError, match=r"^a.csv:2: no label; mend the file$"):
        check_bad_rows(rows[:1], 0)
