"""Which column of a manifest is what, and what is said if that is not clear: as tables."""

import pytest

from batchupload.columns import FIELDS, KNOWN_NAMES, Columns, clean, find_columns, needed, require
from batchupload.sheet import REPORT_COLUMNS
from batchupload.source import ManifestError

PLAIN: dict[str, tuple[str, ...]] = dict.fromkeys(FIELDS, ())
HERE = "orders.csv, line 1"
ENGLISH = list(FIELDS)
PLACES = {"order_id": 0, "face": 1, "back": 2, "hand": 3}


def refusal(cells: list[str], mapped: dict[str, tuple[str, ...]] | None = None) -> str:
    mapped = mapped or PLAIN
    with pytest.raises(ManifestError) as caught:
        require(find_columns(cells, mapped, HERE), mapped, FIELDS, HERE)
    return str(caught.value)


@pytest.mark.parametrize(("field", "name"), [(field, name) for field in FIELDS for name in KNOWN_NAMES[field]])
def test_each_known_name_is_its_field(field: str, name: str) -> None:
    header = [name if own == field else own for own in FIELDS]
    found = find_columns(header, PLAIN, HERE)
    assert found == Columns(tuple(header), PLACES, (), None)
    assert str(found) == ("" if name == field else f"{name} → {field}")
    require(found, PLAIN, FIELDS, HERE)


@pytest.mark.parametrize(
    "name",
    ["Order ID", "ORDER-ID", " order__id ", "order \n id", "_order_id_", '="order_id"', "'order_id", "\ufefforder_id"],
)
def test_a_name_is_known_whatever_its_case_and_what_joins_its_words(name: str) -> None:
    assert find_columns([name, "face", "back", "hand"], PLAIN, HERE).fields == PLACES


@pytest.mark.parametrize("name", ["Xface", "faceX", "face.", "fa ce", "'fa'ce"])
def test_a_name_with_anything_else_in_it_is_another(name: str) -> None:
    assert "face" not in find_columns(["order_id", name, "back", "hand"], PLAIN, HERE).fields


def test_a_field_may_stand_behind_any_number_of_other_columns() -> None:
    header = [*(f"x{number}" for number in range(40)), *ENGLISH]
    assert find_columns(header, PLAIN, HERE).fields == {field: at + 40 for field, at in PLACES.items()}


def test_what_has_no_name_at_the_end_is_no_column() -> None:
    assert find_columns([*ENGLISH, "", " ", ""], PLAIN, HERE) == Columns(tuple(ENGLISH), PLACES, (), None)
    assert find_columns([], PLAIN, HERE) == Columns((), {}, (), None)
    assert find_columns(["", " "], PLAIN, HERE) == Columns((), {}, (), None)
    named_last = find_columns(["", *ENGLISH, "", "note"], PLAIN, HERE)
    assert named_last.own == ((0, ("", 0)), (5, ("", 1)), (6, ("note", 0)))


def test_own_columns_of_one_name_are_told_apart_by_how_many_stand_before() -> None:
    found = find_columns(["note", *ENGLISH, "note", "Note", "note"], PLAIN, HERE)
    assert found.own == ((0, ("note", 0)), (5, ("note", 1)), (6, ("Note", 0)), (7, ("note", 2)))
    twice = find_columns([*ENGLISH, "x", "face "], {**PLAIN, "face": ("x",)}, HERE)
    assert twice.fields["face"] == 4
    assert twice.own == ((1, ("face", 0)), (5, ("face ", 0)))


def test_a_column_without_a_field_of_the_shops_is_its_own() -> None:
    assert find_columns([*ENGLISH, "custom"], PLAIN, HERE).own == ((4, ("custom", 0)),)
    assert find_columns([*ENGLISH, "其他照片"], {**PLAIN, "custom": ()}, HERE).fields == {**PLACES, "custom": 4}


@pytest.mark.parametrize("front", [(), ("manifest",)])
def test_an_earlier_report_is_read_by_its_own_names_and_what_follows_is_the_manifests(front: tuple[str, ...]) -> None:
    header = [*front, *REPORT_COLUMNS, "note", "订单号", "face"]
    at = header.index
    found = find_columns(header, {**PLAIN, "order_id": ("note",)}, HERE)
    assert found.fields == {field: at(field) for field in FIELDS}
    assert found.outcome == at("outcome")
    end = len(front) + len(REPORT_COLUMNS)
    assert found.own == ((end, ("note", 0)), (end + 1, ("订单号", 0)), (end + 2, ("face", 1)))


def test_a_report_has_a_fourth_photo_behind_its_columns() -> None:
    header = [*REPORT_COLUMNS, "note", "custom"]
    found = find_columns(header, {**PLAIN, "custom": ()}, HERE)
    assert found.fields["custom"] == len(REPORT_COLUMNS) + 1
    assert found.own == ((len(REPORT_COLUMNS), ("note", 0)),)


def test_what_only_begins_like_a_report_is_none() -> None:
    found = find_columns(["manifest", *ENGLISH], PLAIN, HERE)
    assert (found.outcome, found.own) == (None, ((0, ("manifest", 0)),))
    assert found.fields == {field: at + 1 for field, at in PLACES.items()}
    short = find_columns(list(REPORT_COLUMNS[:-1]), PLAIN, HERE)
    assert short.outcome is None
    assert (0, ("line", 0)) in short.own


def test_two_columns_for_one_field_are_a_question() -> None:
    assert refusal(["订单号", "order_id", "face", "back", "hand"]) == (
        "orders.csv, line 1: 订单号 and order_id could both be the column order_id. "
        "Rename one, or name the right one in manifest.columns."
    )
    assert "a and b could both be the column face." in refusal(["a", "b", "face"], {**PLAIN, "face": ("a", "b")})
    found = find_columns(["订单号", "order_id", "face", "back", "hand"], {**PLAIN, "order_id": ("order_id",)}, HERE)
    assert found.fields == {"order_id": 1, "face": 2, "back": 3, "hand": 4}


def test_one_column_for_two_fields_is_a_question() -> None:
    assert refusal(["x", "照片"], {**PLAIN, "face": ("照片",), "hand": ("照片",)}) == (
        "orders.csv, line 1: 照片 can't be both face and hand. Name another column for one of them in manifest.columns."
    )


KNOWN_FACE = ", ".join(KNOWN_NAMES["face"])


def test_a_missing_column_is_asked_for_with_all_that_helps() -> None:
    assert refusal(["订单号", "fase", "back", "hand"]) == (
        "orders.csv, line 1: found the columns 订单号, fase, back, hand; missing: face. "
        "The header needs order_id (订单号), face (身份证人像面), back (身份证国徽面), hand (免冠照). "
        f"Looked for face as {KNOWN_FACE}. Is fase meant for face? "
        "Rename the columns, or map them in manifest.columns."
    )
    two = refusal(["order_id", "face"], {**PLAIN, "back": ("B",)})
    assert "; missing: back, hand. " in two
    assert f" Looked for back as B, {', '.join(KNOWN_NAMES['back'])}. Looked for hand as " in two


@pytest.mark.parametrize(
    ("count", "shown"), [(99, ", ".join(["c"] * 30)), (100, "100 columns"), (30, None), (31, None)]
)
def test_of_many_columns_the_first_are_named_or_only_how_many_there_are(count: int, shown: str | None) -> None:
    said = refusal(["c"] * count)
    assert f"found the columns {shown or ', '.join(['c'] * 30)}; missing: order_id" in said
    long = refusal(["y" * 300, "z" * 300])
    assert f"found the columns {'y' * 300}, {'z' * 198}; missing" in long


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("Faec", "face"),
        ("order number!", "order_id"),
        ("身份证人像", "face"),
        ("hnd", "hand"),
        ("fxxe", None),  # half of it
        ("fabe", "face"),
        ("xyz", None),
        ("hand" + "x" * 97, None),
    ],
)
def test_a_name_that_is_near_is_asked_about(name: str, field: str | None) -> None:
    said = refusal([name, "q"])
    asked = said.count(" meant for ")
    assert asked == (1 if field else 0)
    assert field is None or f" Is {name} meant for {field}? " in said


def test_of_two_names_that_are_near_the_first_is_asked_about_and_none_that_has_a_field() -> None:
    assert "Is hnd meant for hand?" in refusal(["hnd", "hamd"])
    assert "hamd meant" not in refusal(["hnd", "hamd"])
    assert " meant for " not in refusal(["face", "faec", "q"]), "face has its column"
    assert " meant for " not in refusal(["q"] * 100 + ["faec"]), "too far behind"
    assert "Is faec meant for face?" in refusal(["q"] * 99 + ["faec"])
    mapped = {**PLAIN, "face": ("正脸图片",)}
    assert "Is 正脸图像 meant for face?" in refusal(["正脸图像"], mapped)


@pytest.mark.parametrize(("name", "asked"), [("abcdefgxyz", True), ("abcdefwxyz", False)])
def test_a_name_is_near_if_seven_of_ten_letters_are_the_same(name: str, asked: bool) -> None:
    assert (" meant for face?" in refusal([name], {**PLAIN, "face": ("abcdefghij",)})) is asked


@pytest.mark.parametrize("length", [100, 101])
def test_what_is_too_long_for_a_name_is_not_asked_about(length: int) -> None:
    name = "x" * length
    near = name[:-1] + "y"
    assert (" meant for face?" in refusal([near], {**PLAIN, "face": (name,)})) is (length == 100)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("", ""),
        (" a ", "a"),
        ("'a", "a"),
        ("' a '", "a '"),
        ("''a", "'a"),
        ('="a"', "a"),
        (' = "a"', '= "a"'),
        ('=" a "', "a"),
        ('="\'a"', "a"),
        ('="a\nb"', "a\nb"),
        ('x="a"', 'x="a"'),
        ('\u200b="a"\ufeff', "a"),
        ("\u200b'a", "a"),
        ('="\u200b\'a"', "a"),
        ("'\u200ba", "a"),
        ("\u200b\u00a0a\u3000\ufeff\u2060\u202e", "a"),
        ("a\u200bb", "a\u200bb"),
    ],
)
def test_a_cell_is_cleaned_around_and_not_within(cell: str, text: str) -> None:
    assert clean(cell) == text


def test_what_is_needed_is_said_in_both_languages() -> None:
    assert needed(["order_id", "custom"]) == "order_id (订单号), custom (第四张照片)"


def test_names_that_differ_are_told_with_what_can_not_be_seen_in_them() -> None:
    assert str(
        find_columns(["订单\u202e号", "face", "back", "hand"], {**PLAIN, "order_id": ("订单\u202e号",)}, HERE)
    ) == ("订单\\u202e号 → order_id")
    two = find_columns(["订单号", "正脸", "back", "hand"], {**PLAIN, "face": ("正脸",)}, HERE)
    assert str(two) == "正脸 → face, 订单号 → order_id"
