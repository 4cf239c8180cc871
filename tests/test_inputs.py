"""Manifests in every form that people keep them in, and from everywhere: the same rows, each with its line."""

import asyncio
import gzip
import io
import json
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from conftest import Shop, batchupload, command, environment, outcomes, read_report
from hypothesis import example, given
from hypothesis import strategies as st

from batchupload.inputs import open_manifests
from batchupload.manifest import open_manifest, read_rows
from batchupload.model import Row
from batchupload.sandbox import Sandbox
from batchupload.sheet import REPORT_COLUMNS
from batchupload.shop_settings import ManifestSettings
from batchupload.source import ManifestError

SETTINGS = ManifestSettings()
HEADER = ["订单号", "人像面", "国徽面", "免冠照", "备注"]
CELLS = [
    ["HT2023111015044046891", "张三/正面.jpg", "张三/反面.jpg", "张三/免冠.jpg", "客户，已付款"],
    ["HT2023111015044046892", "李四/正面.jpg", "李四/反面.jpg", "李四/免冠.jpg", ""],
]


def rows_of(content: bytes, folder: Path, settings: ManifestSettings = SETTINGS) -> list[Row]:
    path = folder / "orders"
    path.write_bytes(content)
    return list(read_rows(open_manifest(path, settings), settings))


def refusal(content: bytes, folder: Path, settings: ManifestSettings = SETTINGS) -> str:
    with pytest.raises(ManifestError) as caught:
        rows_of(content, folder, settings)
    return str(caught.value)


def as_csv(table: list[list[str]]) -> bytes:
    return "".join(",".join(cells) + "\r\n" for cells in table).encode("gb18030")


def as_json(table: list[list[str]]) -> bytes:
    header, *rows = table
    return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()


def as_workbook(table: Sequence[Sequence[Any]], before: int = 0, **sheets: Sequence[Sequence[Any]]) -> bytes:
    book = openpyxl.Workbook()
    for number, (title, rows) in enumerate({"订单": table, **sheets}.items()):
        sheet = book.create_sheet(title, number)
        for line, cells in enumerate(rows, 1 + before):
            for column, cell in enumerate(cells, 1):
                sheet.cell(line, column, cell)
    del book["Sheet"]
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("form", "first_line"), [(as_csv, 2), (as_json, 1), (as_workbook, 2)])
def test_every_form_gives_the_same_rows(
    tmp_path: Path, form: Callable[[list[list[str]]], bytes], first_line: int, packed: bool
) -> None:
    content = form([HEADER, *CELLS])
    rows = rows_of(gzip.compress(content) if packed else content, tmp_path)
    assert [row.problem for row in rows] == [None, None]
    assert [row.line for row in rows] == [first_line, first_line + 1]
    assert [[row.order_id, *row.photos.values(), row.own["备注", 0]] for row in rows] == CELLS


def test_the_rows_of_a_workbook_have_the_numbers_they_have_in_excel(tmp_path: Path) -> None:
    content = as_workbook([HEADER, CELLS[0], [None] * 5, CELLS[1]], before=3)
    assert [row.line for row in rows_of(content, tmp_path)] == [5, 7]


def test_what_excel_makes_of_cells(tmp_path: Path) -> None:
    when = datetime.fromisoformat("2024-01-02T03:04:05")
    more = [12345678, 20231110150440468, 123456789012345, 1.5, True, when]
    content = as_workbook([HEADER, *([cell, "f", "b", "h", cell] for cell in more)])
    found = [
        (row.order_id, row.own["备注", 0], row.problem and row.problem.reason) for row in rows_of(content, tmp_path)
    ]
    assert found[0] == ("12345678", "12345678", None)
    assert found[1][2] == "order_id_malformed"
    assert found[2] == ("123456789012345", "123456789012345", None)
    assert [one[1] for one in found[3:6]] == ["1.5", "TRUE", "2024-01-02T03:04:05"]
    (lost,) = [row.problem for row in rows_of(content, tmp_path) if row.line == 3]
    assert lost
    assert "Excel made a number of it: format the column as text" in lost.detail


def test_a_sheet_is_taken_by_its_name(tmp_path: Path) -> None:
    content = as_workbook([["notes"]], 补传=[HEADER, *CELLS], 空=[])
    assert len(rows_of(content, tmp_path, ManifestSettings(sheet="补传"))) == 2
    assert "there is no sheet x. Name one of these with --sheet: 订单, 补传, 空." in refusal(
        content, tmp_path, ManifestSettings(sheet="x")
    )
    assert "sheet 订单, line 1: found the columns notes" in refusal(content, tmp_path)
    assert "the manifest is empty" in refusal(content, tmp_path, ManifestSettings(sheet="空"))


@pytest.mark.parametrize("size", [8, 100, -1])
def test_a_broken_workbook_is_refused_with_a_remedy(tmp_path: Path, size: int) -> None:
    message = refusal(as_workbook([HEADER, *CELLS])[:size], tmp_path)
    assert "this workbook can't be read" in message
    assert "or as CSV UTF-8" in message


def test_a_cell_far_from_the_others_is_refused_before_its_room_is_made(tmp_path: Path) -> None:
    content = as_workbook([HEADER, *CELLS])
    for place, said in (("XFD1048576", "has a cell far from the others"), ("ZZZZ9", "has a cell at no place")):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for part in old.namelist():
                new.writestr(part, old.read(part).replace(b'r="E3"', f'r="{place}"'.encode()))
        assert said in refusal(file.getvalue(), tmp_path)


@pytest.mark.parametrize("form", ["name in capitals", "single quotes", "blanks", "place of the row"])
def test_a_cell_far_from_the_others_is_seen_however_it_is_written(tmp_path: Path, form: str) -> None:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(as_workbook([HEADER, *CELLS]))) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            content = old.read(part)
            match form:
                case "name in capitals":
                    content = content.replace(b'r="E3"', b'r="XFD1048576"')
                    part = part.upper() if "worksheets/sheet" in part else part
                case "single quotes":
                    content = content.replace(b'r="E3"', b"r='XFD1048576'")
                case "blanks":
                    content = content.replace(b'r="E3"', b'r = "XFD1048576"')
                case _:
                    content = content.replace(b'<row r="3"', b'<row r="1048576"').replace(b'r="E3"', b'r="XFD3"')
            new.writestr(part, content)
    assert "has a cell far from the others" in refusal(file.getvalue(), tmp_path)


def test_a_small_workbook_that_unpacks_to_very_much_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO(as_workbook([HEADER, *CELLS]))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet2.xml", b" " * (32 << 20))
    assert "too large to be read" in refusal(file.getvalue(), tmp_path)


def test_a_hidden_sheet_is_not_taken_for_the_first(tmp_path: Path) -> None:
    book = openpyxl.load_workbook(io.BytesIO(as_workbook([HEADER], 今天=[HEADER, *CELLS])))
    book["订单"].sheet_state = "hidden"
    file = io.BytesIO()
    book.save(file)
    assert len(rows_of(file.getvalue(), tmp_path)) == 2
    assert rows_of(file.getvalue(), tmp_path, ManifestSettings(sheet="订单")) == []


def test_order_numbers_that_excel_holds_as_numbers_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.xlsx").write_bytes(as_workbook([HEADER, [12345678, "f", "b", "h", 1]]))
    (tmp_path / "b.xlsx").write_bytes(as_workbook([HEADER, ["12345678", "f", "b", "h", 1]]))
    open_manifests([tmp_path / "b.xlsx"], frozenset(), SETTINGS)
    assert caplog.text == ""
    open_manifests([tmp_path / "a.xlsx"], frozenset(), SETTINGS)
    assert "without the leading zeros that Excel may show" in caplog.text


def test_dates_and_truths_are_no_order_numbers(tmp_path: Path) -> None:
    day = datetime.fromisoformat("2024-01-02").date()
    rows = rows_of(as_workbook([HEADER, [day, "f", "b", "h", 1], [True, "f", "b", "h", 1]]), tmp_path)
    assert [row.problem and row.problem.reason.value for row in rows] == ["order_id_malformed"] * 2


def test_a_gzip_file_that_is_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(as_csv([HEADER, *CELLS] * 100))
    for content in (whole[: len(whole) // 2], whole[:-1], whole[:-8] + b"\0" * 8, whole[:12]):
        assert "the gzip file is cut off or damaged. Fetch it again." in refusal(content, tmp_path)


def test_a_packed_manifest_that_changed_is_not_read_on(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(gzip.compress(as_csv([HEADER, *CELLS])))
    layout = open_manifest(path, SETTINGS)
    path.write_bytes(gzip.compress(as_csv([HEADER, *reversed(CELLS)])))
    with pytest.raises(ManifestError, match="it was changed while it was read"):
        list(read_rows(layout, SETTINGS))


def test_json_lines_have_the_columns_of_all_lines(tmp_path: Path) -> None:
    good = dict(zip(HEADER[:4], CELLS[0], strict=False))
    lines = [
        json.dumps(good),
        "",
        json.dumps(good | {"price": 12.5, "tags": ["a"]}),
        "{not json}",
        "[1]",
        '{"订单号": "HT0001", "订单号": "HT0002"}',
        "{" * 5000,
        json.dumps(good | {"订单号": 12345678, "备注": None, "人像面": "\ud800"}),
        json.dumps(good | {"订单号": None}),
        json.dumps(good)[:-1] + " " * 300_000 + "}",
    ]
    rows = rows_of("\n".join(lines).encode(), tmp_path)
    assert [(row.line, row.problem and row.problem.reason.value) for row in rows] == [
        (1, None),
        (3, None),
        (4, "row_unreadable"),
        (5, "row_unreadable"),
        (6, "row_unreadable"),
        (7, "row_unreadable"),
        (8, None),
        (9, "order_id_empty"),
        (10, "row_too_long"),
    ]
    assert rows[1].own == {("price", 0): "12.5", ("tags", 0): '["a"]', ("备注", 0): ""}
    assert rows[6].order_id == "12345678"


def test_a_header_that_nearly_matches_gets_a_suggestion(tmp_path: Path) -> None:
    said = refusal("订单号码,身份证正面图,身份证反面图,手持的照片\nHT0001,f,b,h\n".encode(), tmp_path)
    assert "Is 订单号码 meant for order_id? Is 身份证正面图 meant for face? Is 身份证反面图 meant for back?" in said
    said = refusal(b"ordr_id,face,back,hands\nHT0001,f,b,h\n", tmp_path)
    assert "Is ordr_id meant for order_id? Is hands meant for hand?" in said


STARTS = [b"", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\x1f\x8b\x08", b"{", b"order_id,face,back,hand\n"]


def is_clear(content: bytes, folder: Path) -> bool:
    """Whether it gives rows, or one refusal in a sentence; anything else is raised."""
    try:
        rows_of(content, folder)
    except ManifestError as error:
        return str(error).endswith(".") and "\n" not in str(error)
    return True


@given(st.sampled_from(STARTS), st.binary(max_size=600), st.booleans())
@example(b"PK\x03\x04", b"", False)
def test_any_bytes_give_rows_or_one_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes, packed: bool
) -> None:
    content = gzip.compress(start + rest) if packed else start + rest
    assert is_clear(content, tmp_path_factory.getbasetemp())


BOOK = as_workbook([HEADER, *CELLS])


@given(st.integers(0, len(BOOK) - 1), st.integers(0, 255))
def test_a_workbook_with_a_wrong_byte_gives_rows_or_one_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    assert is_clear(BOOK[:at] + bytes([byte]) + BOOK[at + 1 :], tmp_path_factory.getbasetemp())


def test_a_pattern_stands_for_manifests_and_not_for_earlier_reports(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.csv", "a.csv"):
        (tmp_path / name).write_bytes(as_csv([HEADER, *CELLS]))
    (tmp_path / "a.report-1.csv").write_text(",".join(REPORT_COLUMNS) + "\n")
    (tmp_path / "a.report-1.html").write_text("<!doctype html>")
    for pattern in ("*.csv", "?.*"):
        found = open_manifests([tmp_path / pattern], frozenset(), SETTINGS)
        assert [layout.path.name for layout in found] == ["a.csv", "b.csv"]
    found = open_manifests([tmp_path / "a*"], frozenset(), SETTINGS)
    assert [layout.path.name for layout in found] == ["a.csv"]
    assert "a.report-1.csv is an earlier report, and left out" in caplog.text
    found = open_manifests([tmp_path / "a.report*.csv"], frozenset({"failed"}), SETTINGS)
    assert [layout.path.name for layout in found] == ["a.report-1.csv"]
    with pytest.raises(ManifestError, match="no file fits this pattern"):
        open_manifests([tmp_path / "*.xlsx"], frozenset(), SETTINGS)
    with pytest.raises(ManifestError, match="only earlier reports there"):
        open_manifests([tmp_path / "*.report*"], frozenset(), SETTINGS)


async def test_a_run_over_several_forms_tells_how_each_was_read_and_names_file_and_line(shop: Shop) -> None:
    orders = shop.orders(6)
    header, *rows = shop.rows
    (shop.folder / "one.xlsx").write_bytes(as_workbook([header, *rows[:2]]))
    (shop.folder / "two.jsonl.gz").write_bytes(gzip.compress(as_json([header, *rows[2:4]])))
    (shop.folder / "three.tsv").write_text("\n".join("\t".join(row) for row in [["订单号", *header[1:]], *rows[4:]]))
    async with Sandbox() as server:
        words = ("run", "*.xlsx", "two.jsonl.gz", "three.tsv", "--endpoint", server.url, "--report", "r.csv")
        done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    report = read_report(shop.folder / "r.csv")
    assert sorted((row["manifest"], row["line"], row["order_id"]) for row in report) == [
        ("one.xlsx", "2", orders[0]),
        ("one.xlsx", "3", orders[1]),
        ("three.tsv", "2", orders[4]),
        ("three.tsv", "3", orders[5]),
        ("two.jsonl.gz", "1", orders[2]),
        ("two.jsonl.gz", "2", orders[3]),
    ]
    assert "one.xlsx: workbook, sheet 订单; columns by their own names" in done.stderr
    assert "two.jsonl.gz: JSON lines, utf-8; columns by their own names" in done.stderr
    assert "three.tsv: CSV, utf-8, tab; 订单号 → order_id" in done.stderr


def piped(content: bytes, *words: str, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command(*words), input=content, capture_output=True, cwd=cwd, env=environment(), timeout=60, check=False
    )


@pytest.mark.parametrize("packed", [False, True])
async def test_a_manifest_comes_by_standard_input(shop: Shop, packed: bool) -> None:
    orders = shop.orders(30)
    content = shop.manifest().read_bytes()
    content = gzip.compress(content) if packed else content
    async with Sandbox() as server:
        done = await asyncio.to_thread(piped, content, "run", "-", "--endpoint", server.url, cwd=shop.folder)
        assert sorted(server.accepted) == orders
    assert done.returncode == 0, done.stderr
    (report,) = shop.folder.glob("stdin.report-*.csv")
    assert outcomes(read_report(report)) == dict.fromkeys(orders, ("uploaded", "accepted"))


def test_a_check_of_standard_input_says_how_to_go_on(shop: Shop) -> None:
    shop.orders(2)
    done = piped(shop.manifest().read_bytes(), "check", "-", "--delimiter", "comma", cwd=shop.folder)
    assert done.returncode == 0, done.stderr
    assert b"batchupload run - --delimiter ," in done.stdout
    assert b"semicolon or tab" in piped(b"", "check", "-", "--delimiter", "x", cwd=shop.folder).stderr
    empty = piped(b"", "check", "-", cwd=shop.folder)
    assert empty.returncode == 2
    assert b"stdin: the manifest is empty" in empty.stderr
