"""Any file that people call a manifest: the same rows whatever its encoding, or one clear reason why not."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchupload.columns import clean
from batchupload.manifest import Layout, open_manifest, read_rows
from batchupload.model import Row
from batchupload.sheet import REPORT_COLUMNS, neutral, plain
from batchupload.shop_settings import ManifestSettings
from batchupload.source import ManifestError
from batchupload.survey import survey

SETTINGS = ManifestSettings()
ENGLISH = "order_id,face,back,hand"
CHINESE = "星光订单号,身份证人像面,身份证国徽面,免冠照,备注"


def rows_of(content: bytes | str, folder: Path, settings: ManifestSettings = SETTINGS) -> list[Row]:
    path = folder / "orders.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(open_manifest(path, settings), settings))


def refusal(content: bytes | str, folder: Path, settings: ManifestSettings = SETTINGS) -> str:
    with pytest.raises(ManifestError) as caught:
        rows_of(content, folder, settings)
    return str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030", "gbk"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_every_encoding_gives_the_same_rows(tmp_path: Path, encoding: str, delimiter: str, ending: str) -> None:
    text = (
        f"{CHINESE}\n"
        "HT2023111015044046891,张三/正面.jpg,张三/反面.jpg,张三/免冠.jpg,客户，已付款\n"
        'HT2023111015044046892,李四/正面.jpg,李四/反面.jpg,李四/免冠.jpg,"两行\n备注"\n'
    )
    text = text.replace(",", delimiter).replace("\n", ending)
    one, two = rows_of(text.encode(encoding), tmp_path)
    assert (one.line, one.order_id, one.problem) == (2, "HT2023111015044046891", None)
    assert dict(one.photos) == {"face": "张三/正面.jpg", "back": "张三/反面.jpg", "hand": "张三/免冠.jpg"}
    assert one.own == {("备注", 0): "客户，已付款"}
    assert (two.line, two.own["备注", 0]) == (3, f"两行{ending}备注")


@pytest.mark.parametrize(
    "header",
    [
        ENGLISH,
        "hand,back,face,order_id",
        "Order ID,FACE,Back, hand ",
        "订单号,人像面,国徽面,免冠照",
        "星光订单号,身份证正面,身份证反面,手持照",
        "订单号,身份证人像面,身份证国徽面,免冠人像照",
        "\u200b订单号,人像面\u00a0,国徽面,手持身份证照",
        '="订单号",人像面,国徽面,免冠照',
        "sep=,\norder_id,face,back,hand",
        "\n\norder_id,face,back,hand",
    ],
)
def test_columns_are_known_by_their_usual_names(tmp_path: Path, header: str) -> None:
    by_name = {"hand": "h.jpg", "back": "b.jpg", "face": "f.jpg", "order": "HT0001"}
    last = header.splitlines()[-1]
    cells = ["HT0001", "f.jpg", "b.jpg", "h.jpg"] if not last.startswith("hand") else list(by_name.values())
    (row,) = rows_of(f"{header}\n{','.join(cells)}\n", tmp_path)
    assert row.problem is None
    assert (row.order_id, dict(row.photos)) == ("HT0001", {"face": "f.jpg", "back": "b.jpg", "hand": "h.jpg"})
    assert row.line == len(header.splitlines()) + 1


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    settings = ManifestSettings.model_validate({"columns": {"order_id": "单号", "face": ["A面"]}})
    (row,) = rows_of("单号,A面,back,hand\nHT0001,f,b,h\n", tmp_path, settings)
    assert (row.order_id, row.photos["face"]) == ("HT0001", "f")


README_COLUMNS = {"order_id": ["单号"], "hand": ["手持身份证照片"]}


@pytest.mark.parametrize(
    ("columns", "header", "order"),
    [
        (README_COLUMNS, "单号,人像面,国徽面,免冠照", "1,f,b,h"),
        (README_COLUMNS, "订单号,人像面,国徽面,手持身份证照片", "1,f,b,h"),
        (README_COLUMNS, "订单号,单号,人像面,国徽面,免冠照,手持身份证照片", "x,1,f,b,x,h"),
        ({"face": ["back"], "back": ["face"]}, "order_id,face,back,hand", "1,b,f,h"),
        ({"face": ["back"]}, "order_id,back,国徽面,hand", "1,f,b,h"),
    ],
)
def test_names_of_ones_own_go_before_the_known_ones(
    tmp_path: Path, columns: dict[str, list[str]], header: str, order: str
) -> None:
    settings = ManifestSettings.model_validate({"columns": columns, "order_id_pattern": "1"})
    (row,) = rows_of(f"{header}\n{order}\n", tmp_path, settings)
    assert (row.order_id, dict(row.photos)) == ("1", {"face": "f", "back": "b", "hand": "h"})


def test_one_column_is_not_two_photos(tmp_path: Path) -> None:
    settings = ManifestSettings.model_validate({"columns": {"face": "照片", "hand": "照片"}})
    message = refusal("order_id,照片,back\n", tmp_path, settings)
    assert "orders.csv, line 1: 照片 can't be both face and hand. Name another column for one of them" in message
    settings = ManifestSettings.model_validate({"columns": {"face": "back"}})
    assert "missing: back." in refusal("order_id,back,hand\n", tmp_path, settings)


def test_a_missing_column_tells_by_which_names_it_was_looked_for(tmp_path: Path) -> None:
    settings = ManifestSettings.model_validate({"columns": README_COLUMNS})
    message = refusal("单号,人像面,国徽面,照片\n", tmp_path, settings)
    assert "missing: hand." in message
    assert "Looked for hand as 手持身份证照片, hand, 免冠照, " in message
    assert "Looked for face" not in message


@pytest.mark.parametrize(
    "cell",
    ['"=""HT0001"""', "'HT0001", "  HT0001\t", "\u200bHT0001\ufeff", '="HT0001"', "\u3000HT0001\u00a0", "' HT0001"],
)
def test_what_excel_puts_around_an_order_number_is_cleaned(tmp_path: Path, cell: str) -> None:
    (row,) = rows_of(f"{ENGLISH}\n{cell},f,b,h\n", tmp_path)
    assert (row.order_id, row.problem) == ("HT0001", None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("HT0001,f,b", "missing_cell"),
        ("HT0001", "missing_cell"),
        ("HT0001,f,,h", "missing_cell"),
        ("HT0001,f, \u200b,h", "missing_cell"),
        ("HT0001,f,b,h,x", "extra_cells"),
        (",f,b,h", "order_id_empty"),
        ('="",f,b,h', "order_id_empty"),
        ("HT,f,b,h", "order_id_malformed"),
        ("HT 0001,f,b,h", "order_id_malformed"),
        ("HT0001\u4e2d,f,b,h", "order_id_malformed"),
        ("2.02311E+19,f,b,h", "order_id_malformed"),
        ("../HT0001,f,b,h", "order_id_malformed"),
        ("HT00\x0001,f,b,h", "nul_character"),
        ("HT0001,f\x00,b,h", "nul_character"),
        ('HT0001,"f,b,h', "stray_quote"),
        ('HT0001,"f"x,b,h', "stray_quote"),
        ("HT0001," + "f" * 1_000_000 + ",b,h", "row_too_long"),
    ],
)
def test_a_bad_row_is_invalid_and_its_neighbours_are_not(tmp_path: Path, line: str, reason: str) -> None:
    rows = rows_of(f"{ENGLISH}\nHT1111,f,b,h\n{line}\nHT2222,f,b,h\n", tmp_path)
    assert [row.line for row in rows] == [2, 3, 4]
    assert [row.problem and row.problem.reason for row in rows] == [None, reason, None]
    assert [rows[0].order_id, rows[2].order_id] == ["HT1111", "HT2222"]


def test_a_quote_that_is_never_closed_costs_its_own_row_only(tmp_path: Path) -> None:
    good = "".join(f"HT{n:04},f,b,h\n" for n in range(1000))
    rows = rows_of(f'{ENGLISH}\nHT9999,"f,b,h\n{good}', tmp_path)
    assert len(rows) == 1001
    assert [row.line for row in rows if row.problem] == [2]


def test_empty_lines_and_trailing_separators_are_no_trouble(tmp_path: Path) -> None:
    rows = rows_of(f"{ENGLISH},,\n\nHT0001,f,b,h,,\n,,,,,\nHT0002,f,b,h\n\n", tmp_path)
    assert [(row.line, row.order_id, row.problem) for row in rows] == [(3, "HT0001", None), (5, "HT0002", None)]


def test_a_manifest_without_rows_has_none(tmp_path: Path) -> None:
    assert rows_of(ENGLISH, tmp_path) == []


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", ",,,\n"])
def test_an_empty_manifest_is_refused_with_what_it_needs(tmp_path: Path, content: str) -> None:
    assert "order_id (订单号), face (身份证人像面)" in refusal(content, tmp_path)


def test_unknown_columns_are_named_beside_those_needed(tmp_path: Path) -> None:
    message = refusal("order,front,back,hand\nHT0001,f,b,h\n", tmp_path)
    assert "orders.csv, line 1: found the columns order, front, back, hand; missing: face." in message
    message = refusal("order_id,faec,back,hand\n", tmp_path)
    assert "Is faec meant for face?" in message


def test_two_columns_for_one_field_are_refused(tmp_path: Path) -> None:
    assert "订单号 and order_id could both be the column order_id" in refusal(
        "订单号,face,back,hand,order_id\n", tmp_path
    )


def test_what_no_encoding_reads_is_refused_with_its_line(tmp_path: Path) -> None:
    content = ENGLISH.encode() + b"\nHT0001,f,b,h\nHT0002,\xff\xff\xff,b,h\n"
    assert "line 3: not readable as utf-8 or gb18030" in refusal(content, tmp_path)
    chinese = f"{CHINESE}\n" + "HT0001,人像,国徽,免冠,加急\n" * 100_000
    assert "line 100002: not readable as utf-8 or gb18030" in refusal(chinese.encode("gb18030") + b"\xff", tmp_path)
    assert "line 100002: not readable as utf-16" in refusal(chinese.encode("utf-16") + b"\x00\xd8", tmp_path)
    assert "line 100002: not readable as utf-8." in refusal(chinese.encode("utf-8-sig") + b"\xff", tmp_path)


def test_a_wrong_encoding_that_was_named_is_to_be_left_out(tmp_path: Path) -> None:
    wrong = ManifestSettings(encoding="ascii")
    message = refusal(f"{ENGLISH}\nHT0001,正面,b,h\n", tmp_path, wrong)
    assert "line 2: not readable as ascii. Leave --encoding (manifest.encoding) out" in message
    assert "name its encoding" not in message


def test_a_line_of_another_encoding_spoils_no_other(tmp_path: Path) -> None:
    good = "HT0001,人像,国徽,免冠,加急\n".encode()
    content = f"{CHINESE}\n".encode() + good * 20_000 + "HT0002,张,李,王,加急\n".encode("gbk") + good
    message = refusal(content, tmp_path)
    assert "orders.csv, line 20002: this line isn't UTF-8, while 20,002 others are. Correct it" in message


def test_gbk_that_looks_like_utf_8_here_and_there_is_gbk(tmp_path: Path) -> None:
    # 女 and 联通 in GBK are good UTF-8 too.
    text = ENGLISH + ",note\n" + "HT0001,f,b,h,女\n" * 20 + "HT0002,f,b,h,联通\nHT0003,f,b,h,男\n"
    assert [row.own["note", 0] for row in rows_of(text.encode("gbk"), tmp_path)] == ["女"] * 20 + ["联通", "男"]


@pytest.mark.parametrize("more", ["HT0001,x,b,h\n", "\n" * 100])
def test_what_is_appended_after_the_first_look_is_not_read(tmp_path: Path, more: str) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(f"{ENGLISH}\nHT0001,f,b,h\n")
    layout = open_manifest(path, SETTINGS)
    with path.open("a") as file:
        file.write(more)
    assert [row.order_id for row in read_rows(layout, SETTINGS)] == ["HT0001"]


@pytest.mark.parametrize("after", ["HT0001,f,b,h\nHT0001,f,b,h\n", "HT0001,f,b,h\n", ""])
def test_rows_that_are_no_longer_what_they_were_are_not_read(tmp_path: Path, after: str) -> None:
    path = tmp_path / "orders.csv"
    path.write_text(f"{ENGLISH}\nHT0001,f,b,h\nHT0002,f,b,h\n")
    layout = open_manifest(path, SETTINGS)
    path.write_text(f"{ENGLISH}\n{after}")
    with pytest.raises(ManifestError, match="it was changed while it was read"):
        list(read_rows(layout, SETTINGS))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "bad", "named"),
    [
        ("utf-8", b"\xff\xff", False),
        ("utf-8-sig", b"\xff\xff", False),
        ("gb18030", b"\xff\xff", False),
        ("utf-16", b"\x00\xdc", False),
        ("utf-16-le", b"\x00\xdc", True),
        ("utf-16-be", b"\xdc\x00", True),
        ("big5", b"\xff\xff", True),
    ],
)
@pytest.mark.parametrize("rows", [3, 40_000])
def test_the_line_that_can_not_be_read_is_the_one_named(
    tmp_path: Path, encoding: str, bad: bytes, named: bool, ending: str, rows: int
) -> None:
    row = "HT0001,正面.jpg,反面.jpg,人.jpg" + ending
    text = f"{ENGLISH}{ending}{row * rows}".encode(encoding)
    more = row.encode({"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(encoding, encoding))
    settings = ManifestSettings(encoding=encoding if named else "auto")
    message = refusal(text + bad + more * 10, tmp_path, settings)
    assert f"line {rows + 2}: " in message
    message = refusal(text + bad[:1], tmp_path, settings)
    assert f"line {rows + 2}: " in message


def test_a_named_encoding_is_used(tmp_path: Path) -> None:
    content = "order_id,face,back,hand\nHT0001,正面,b,h\n".encode("big5")
    (row,) = rows_of(content, tmp_path, ManifestSettings(encoding="big5"))
    assert row.photos["face"] == "正面"


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="this is not a file"):
        open_manifest(tmp_path, SETTINGS)
    with pytest.raises(ManifestError, match="no such file"):
        open_manifest(tmp_path / "gone.csv", SETTINGS)


def test_an_earlier_report_is_recognised_and_read_back(tmp_path: Path) -> None:
    own = "note"
    cells = {"order_id": "HT0001", "outcome": "failed", "face": "'=f.jpg", "back": "b", "hand": "h"}
    line = ",".join(cells.get(name, "") for name in REPORT_COLUMNS)
    path = tmp_path / "report.csv"
    path.write_text("\ufeff" + ",".join([*REPORT_COLUMNS, own]) + f"\r\n{line},'-x\r\n", encoding="utf-8")
    layout = open_manifest(path, SETTINGS)
    assert layout.is_report
    (row,) = read_rows(layout, SETTINGS, frozenset({"failed"}))
    assert (row.order_id, row.photos["face"], row.own) == ("HT0001", "=f.jpg", {("note", 0): "-x"})
    assert list(read_rows(layout, SETTINGS, frozenset({"unknown"}))) == []


@given(st.text())
def test_neutral_cells_read_back_as_they_were(cell: str) -> None:
    shown = neutral(cell)
    assert plain(shown) == cell
    assert not shown.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")) or shown.strip("+-.,0123456789") == ""


@given(st.text(alphabet=st.sampled_from("'=+-@\t\r ＝x1")))
def test_neutral_cells_read_back_as_they_were_also_where_it_is_close(cell: str) -> None:
    assert plain(neutral(cell)) == cell


@given(st.binary(max_size=4000))
def test_any_bytes_give_rows_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for start in (b"", f"{ENGLISH}\n".encode(), f"{CHINESE}\r\n".encode("gb18030")):
        try:
            rows = rows_of(start + content, folder)
        except ManifestError:
            continue
        assert all(row.problem or (row.order_id and all(row.photos.values())) for row in rows)
        assert [row.line for row in rows] == sorted({row.line for row in rows})


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=20), st.sampled_from([",", ";", "\t"]))
def test_what_csv_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str, str]], delimiter: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["order_id", "face", "back", "hand", "note"])
    for number, (face, back, hand, note) in enumerate(cells):
        writer.writerow([f"HT{number:04}", f"f{face}f", f"b{back}b", f"h{hand}h", note])
    rows = rows_of("\ufeff" + text.getvalue(), tmp_path_factory.mktemp("csv"))
    expected = [(f"f{f}f", f"b{b}b", f"h{h}h") for f, b, h, _ in cells]
    assert [tuple(row.photos.values()) for row in rows] == expected
    assert [row.own["note", 0] for row in rows] == [note for *_, note in cells]
    assert not any(row.problem for row in rows)


def test_cleaning_leaves_the_inside_alone() -> None:
    assert clean(" a b ") == "a b"
    assert clean('="a"b"') == 'a"b'


def test_a_survey_tells_repeated_rows_from_conflicting_ones(tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        yield from rows_of(
            f"{ENGLISH}\nHT0001,f,b,h\nHT0002,f,b,h\nHT0001,f,b,h\nHT0002,x,b,h\nHT0003,f,b,h\n", tmp_path
        )

    found = survey(rows(), None)
    assert [found.relation(found.place(row)).name for row in rows()] == [
        "SAME",
        "CONFLICT",
        "SAME",
        "CONFLICT",
        "SINGLE",
    ]


def test_lines_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    path.write_text(f"{ENGLISH}\n" + "HT0001,f,b,h\n" * 100_000)
    import tracemalloc

    layout: Layout = open_manifest(path, SETTINGS)
    tracemalloc.start()
    count = sum(1 for _ in read_rows(layout, SETTINGS))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 100_000
    assert peak < 500_000
