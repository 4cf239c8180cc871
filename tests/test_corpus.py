"""The corpus in `tests/data`, looked over as a user would: what becomes of each case stands in its table."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import batchupload, read_report
from corpus import BAD_ROWS, DATA, JPEG, MANIFESTS, PHOTOS, PNG

from batchupload.photos import PhotoError, validate
from batchupload.shop_settings import PhotoSettings

EXPECTED: dict[str, list[dict[str, str]]] = defaultdict(list)
with (DATA / "expected.csv").open(encoding="utf-8", newline="") as table:
    for case in csv.DictReader(table):
        EXPECTED[case["manifest"]].append(case)


def test_every_case_stands_in_the_table() -> None:
    assert set(EXPECTED) == {*MANIFESTS, "photos.csv", "rows.csv"}
    assert [case["case"] for case in EXPECTED["photos.csv"]] == list(PHOTOS)
    assert {case["case"] for case in EXPECTED["rows.csv"]} == {*BAD_ROWS, "stray quote"}
    spoilt = [case for cases in EXPECTED.values() for case in cases if case["outcome"] in {"invalid", "exit 2"}]
    assert len(spoilt) >= 40


@pytest.mark.parametrize("name", list(EXPECTED))
def test_what_becomes_of_each_case(tmp_path: Path, name: str) -> None:
    done = batchupload("check", DATA / name, "--report", tmp_path / "report.csv", "-q", cwd=tmp_path)
    expected = EXPECTED[name]
    if expected[0]["outcome"] == "exit 2":
        assert done.returncode == 2
        assert expected[0]["reason"] in done.stderr
        assert "Traceback" not in done.stderr
        return
    found = {row["line"]: (row["outcome"], row["reason"]) for row in read_report(tmp_path / "report.csv")}
    assert found == {case["line"]: (case["outcome"], case["reason"]) for case in expected}
    assert done.returncode == (1 if any(case["outcome"] == "invalid" for case in expected) else 0)


@pytest.mark.parametrize("content", [JPEG, PNG], ids=["JPEG", "PNG"])
def test_a_picture_cut_at_any_of_fifty_places_behind_its_header_is_found(content: bytes) -> None:
    validate(content, PhotoSettings())
    for place in range(1, 51):
        with pytest.raises(PhotoError):
            validate(content[: 20 + (len(content) - 21) * place // 51], PhotoSettings())
