"""A scan of photo folders: what becomes of each file by its name and kind, and that it is just one thing."""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchupload.manifest import open_manifest, read_rows
from batchupload.model import BatchuploadError
from batchupload.patterns import parse_pattern
from batchupload.scan_job import ScanWish, scan
from batchupload.settings import Settings

WHOLE = ("HT0001/face.jpg", "HT0001/back.jpg", "HT0001/hand.jpg")
"""An order beside the case, so that something is found."""
SECOND = ("HT0002/face.jpg", "HT0002/back.jpg", "HT0002/hand.jpg")
PARTNERS = SECOND[1:]


def lay(folder: Path, names: Iterable[str], content: bytes = b"x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def scanned(folder: Path, *, incomplete: bool = False, **sections: Any) -> dict[str, Any]:
    """What a scan says to machines, and from its manifest beside the folder the `rows`: order → its paths below it."""
    chosen = Settings.model_validate(sections)
    done = scan(ScanWish(folder, incomplete=incomplete, most=None), chosen)
    told: dict[str, Any] = json.loads(done.as_json())
    assert done.as_text()
    told["rows"] = {}
    if done.manifest:
        for row in read_rows(open_manifest(done.manifest, chosen.manifest), chosen.manifest):
            assert row.problem is None or not all(row.photos.values())
            paths = [path and os.path.relpath(done.manifest.parent / path, folder) for path in row.photos.values()]
            told["rows"][row.order_id] = paths
    return told


def fates(told: Mapping[str, Any]) -> dict[str, str]:
    """File → what became of it; those that are ignored are not named."""
    found: dict[str, str] = {}
    several = Counter[str]()

    def note(path: str, fate: str) -> None:
        several[path] += found.get(path) != "more_than_one_photo"
        found[path] = fate

    for paths in told["rows"].values():
        for path in filter(None, paths):
            note(path, "used")
    findings = told["findings"]
    for order in (*findings["missing"], *findings["ambiguous"]):
        for path in order["photos"].values() if order["order_id"] not in told["rows"] else ():
            note(path, "waiting")
        for rivals in order["ambiguous"].values():
            for one in rivals:
                note(one["path"], one["doubt"] if one["doubt"] == "more_than_one_photo" else "ambiguous")
        for there in order["missing"].values():
            for one in there:
                note(one["path"], one["doubt"])
    for one in findings["left_over"]:
        note(one["path"], one["doubt"])
    assert not [path for path, times in several.items() if times > 1]
    return found


@dataclass(frozen=True)
class Case:
    """Files, and what becomes of the first ones."""

    names: Sequence[str]
    fates: Sequence[str]
    sections: Mapping[str, Any] = field(default_factory=dict)


def pattern(*patterns: str, **manifest: Any) -> dict[str, Any]:
    return {"scan": {"patterns": patterns}, "manifest": manifest}


CASES = {
    "in a folder of the order": Case(SECOND, ["used"] * 3),
    "side by side": Case(["HT0002_face.jpg", "HT0002_back.png", "HT0002_hand.jpeg"], ["used"] * 3),
    "both ways": Case(["HT0002/face.jpg", "HT0002_back.jpg", "HT0002/hand.jpg"], ["used"] * 3),
    "capital letters": Case(["HT0002/FACE.JPG", *PARTNERS], ["used"]),
    "Chinese names": Case(["HT0002/人像面.jpg", "HT0002/国徽面.jpg", "HT0002_免冠照.jpg"], ["used"] * 3),
    "underscore in the order": Case(["HT_0002_face.jpg", "HT_0002_back.jpg", "HT_0002_hand.jpg"], ["used"] * 3),
    "another field in the order": Case(["HT0002_face_back.jpg"], ["waiting"]),
    "own column": Case(["HT0002/正面.jpg", *PARTNERS], ["used"], {"manifest": {"columns": {"face": ["正面"]}}}),
    "own column, decomposed": Case(
        ["HT0002/Pre\u0301nom.jpg", *PARTNERS], ["used"], {"manifest": {"columns": {"face": ["prénom"]}}}
    ),
    "own column of two fields": Case(
        ["HT0002/a.jpg", "HT0002/hand.jpg"],
        ["more_than_one_photo", "waiting"],
        {"manifest": {"columns": {"face": "a", "back": "A"}}},
    ),
    "two extensions": Case(["HT0002/face.jpg", "HT0002/face.png", *PARTNERS], ["ambiguous"] * 2 + ["waiting"] * 2),
    "two by case": Case(["HT0002/face.jpg", "HT0002/Face.JPG", *PARTNERS], ["ambiguous"] * 2),
    "two languages": Case(["HT0002/face.jpg", "HT0002/人像面.jpg", *PARTNERS], ["ambiguous"] * 2),
    "two patterns": Case(["HT0002/face.jpg", "HT0002_face.jpg", *PARTNERS], ["ambiguous"] * 2),
    "alone": Case(["HT0002/face.jpg"], ["waiting"]),
    "text in place of a photo": Case(["HT0002/face.txt", *PARTNERS], ["no_picture", "waiting", "waiting"]),
    "text beside a photo": Case(["HT0002/face.txt", *SECOND], ["other_file", *["used"] * 3]),
    "HEIC": Case(["HT0002/face.heic", *PARTNERS], ["not_sendable"]),
    "HEIC beside a photo": Case(["HT0002/face.heic", *SECOND], ["ambiguous", "ambiguous", "waiting"]),
    "empty": Case(["empty:HT0002/face.jpg", *PARTNERS], ["empty"]),
    "empty beside a photo": Case(["empty:HT0002/face.png", *SECOND], ["ambiguous", "ambiguous", "waiting"]),
    "link within": Case(["link:HT0002/face.jpg:../HT0001/face.jpg", *PARTNERS], ["used"]),
    "link to outside": Case(["link:HT0002/face.jpg:../../outside.jpg", *PARTNERS], ["link_outside", "waiting"]),
    "link to nowhere": Case(["link:HT0002/face.jpg:gone.jpg", *PARTNERS], ["link_broken"]),
    "link round": Case(["link:HT0002/face.jpg:face.jpg", *PARTNERS], ["link_broken"]),
    "link to a folder": Case(["link:HT0002/face.jpg:../HT0001", *PARTNERS], ["link_folder"]),
    "order as a link to a folder": Case(["link:HT0002:HT0001"], ["link_folder"]),
    "pipe": Case(["pipe:HT0002/face.jpg", *PARTNERS], ["not_a_file"]),
    "in a folder named as a photo": Case(["HT0002/face.jpg/1.jpg", *PARTNERS], ["no_pattern"]),
    "some other picture": Case(["HT0002/IMG_1.jpg", *SECOND], ["no_pattern", "used"]),
    "a copy": Case(["HT0002/face (1).jpg", *SECOND], ["no_pattern", "used"]),
    "notes": Case(["HT0002/notes.txt"], ["other_file"]),
    "deeper": Case(["HT0002/old/face.jpg"], ["no_pattern"]),
    "no extension": Case(["HT0002/face"], ["other_file"]),
    "nothing behind the dot": Case(["HT0002/face."], ["other_file"]),
    "two extensions in one": Case(["HT0002/face.jpg.bak"], ["other_file"]),
    "order too short": Case(["HT2/face.jpg", "HT2_back.jpg"], ["no_pattern"] * 2),
    "another separator": Case(["HT0002-face.jpg"], ["no_pattern"]),
    "bytes that are no text": Case(["HT0002/\udce4.jpg", "HT0002/face.jp\udcff"], ["no_pattern", "no_picture"]),
    "line break and quote": Case(['HT0002/"a\nb".jpg'], ["no_pattern"]),
    "hidden and system files": Case(
        [
            f"HT0001/{name}"
            for name in (".DS_Store", "._face.jpg", "Thumbs.db", "desktop.ini", "~$list.xlsx", "@eaDir/face.jpg")
        ],
        [],
    ),
    "folder for each field": Case(
        ["face/HT0002.jpg", "back/HT0002.jpg", "手持照/HT0002.jpg"], ["used"] * 3, pattern("{field}/{order_id}.*")
    ),
    "order twice, and not the same": Case(
        ["HT0002/HT0002-face.jpg", "HT0002/HT0003-back.jpg"],
        ["waiting", "no_pattern"],
        pattern("{order_id}/{order_id}-{field}.*", "{order_id}/{field}.*"),
    ),
    "extension of the user's own": Case(
        ["HT0002/face.dat", "HT0002/back.DAT", "HT0002/hand.dat"],
        ["used"] * 3,
        pattern("{order_id}/{field}.dat", "{order_id}/{field}.*"),
    ),
    "field in front": Case(
        ["scan-Back-HT0002.png", "scan-face-HT0002.png"], ["waiting"] * 2,
        pattern("SCAN-{field}-{order_id}.png", "{order_id}/{field}.*"),
    ),
    "two orders or fields by one name": Case(
        ["HT0002身份证人像面.jpg", "HT0002back.jpg", "HT0002hand.jpg"],
        ["more_than_one_photo", "waiting", "waiting"],
        pattern("{order_id}{field}.*", order_id_pattern="(?s).+"),
    ),
    "no order at all": Case(
        ["HT/face.jpg"],
        ["no_pattern"],
        pattern("HT{order_id}/{field}.*", "{order_id}/{field}.*", order_id_pattern="[^H].*|H|H[^T].*|HT.+"),
    ),
    "order that a cell can't hold": Case(
        ["\u200bHT2_face.jpg", "=HT2_face.jpg"],
        ["no_pattern", "waiting"],
        pattern("{order_id}_{field}.*", order_id_pattern="[^/]+"),
    ),
    **{
        f"below the folder {place!a}": Case(
            [f"{place}/HT0002/{name}.jpg" for name in ("face", "back", "hand")],
            [fate] * 3,
            pattern("*/{order_id}/{field}.*", "{order_id}/{field}.*"),
        )
        for place, fate in {
            "2023-11-10": "used",
            "=cmd()|'x'!A1": "used",
            "-1+1": "used",
            "'quoted": "used",
            " in blanks ": "used",
            'q"u\no,t\r\ne"': "used",
            "..dots": "ignored",
            "照片\u3000": "used",
            "\u202ebidi": "used",
            "back\\slash": "name_unwritable",
            "by\udcfftes": "name_unwritable",
            "\n" * 50: "name_unwritable",
        }.items()
    },
}  # fmt: skip


def make(folder: Path, name: str) -> str:
    """A file as the case has it; its path."""
    kind, _, rest = name.partition(":")
    path, _, target = rest.partition(":")
    if kind not in {"empty", "link", "pipe"}:
        lay(folder, [name])
        return name
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        (folder / path).symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(folder / path)
    else:
        lay(folder, [path], b"")
    return path


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_becomes_of_a_file(tmp_path: Path, case: Case) -> None:
    lay(tmp_path, ["outside.jpg"])
    folder = tmp_path / "photos"
    whole = (
        WHOLE
        if not case.sections.get("scan") or case.sections["scan"]["patterns"][-1] == "{order_id}/{field}.*"
        else ()
    )
    lay(folder, whole)
    paths = [make(folder, name) for name in case.names]
    told = scanned(folder, **case.sections)
    found = fates(told)
    assert [found.get(path, "ignored") for path in paths[: len(case.fates)]] == list(case.fates)
    expected = [path for path in paths if path in found]
    assert Counter(found.keys()) == Counter({*whole, *expected})
    assert told["files"]["ignored"] == len(paths) - len(expected)
    assert sum(told["files"].values()) == len(whole) + len(paths)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a pattern is empty"),
        ("{order_id}/{name}.*", "{name} is neither {order_id} nor {field}"),
        ("{order_id}/face.*", "{field} is missing"),
        ("{field}.*", "{order_id} is missing"),
        ("{order_id}/{field}/{field}.*", "{field} stands twice"),
        ("{order_id}{order_id}_{field}.*", "{order_id} stands twice in one name"),
        ("{order_id}/{field}*", "* stands for any extension (.* at the end) or for a whole folder (*/)"),
        ("**/{order_id}/{field}.*", "* stands for"),
        ("x*/{order_id}/{field}.*", "* stands for"),
        ("/{order_id}/{field}.*", "below the folder"),
        ("{order_id}//{field}.*", "below the folder"),
        ("../{order_id}/{field}.*", "never looked at"),
        (".photos/{order_id}_{field}.*", "never looked at"),
        ("{order_id}\\{field}.*", "separate folders with /"),
        ("{order_id/{field}.*", "a brace has no partner"),
        ("order_id}/{field}.*", "a brace has no partner"),
        ("{}/{order_id}_{field}.*", "{} is neither"),
    ],
)
def test_a_pattern_that_can_not_be_meant_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_pattern(text)


PARTS = st.sampled_from(
    [
        "HT0001", "HT0002", "ht0001", "HT1", "=1+1", "2023", "Thumbs.db", ".hidden", "@eaDir", "face.jpg", "FACE.PNG",
        "人像面.jpg", "back.jpg", "国徽面.jpg", "hand.jpeg", "hand.heic", "back.txt", "IMG.jpg", "HT0001_face.jpg",
        "HT0001_back.png", "HT0001_hand.jpg", "HT0002_face.jpg", "HT0001_face_back.jpg", "a\nb", 'q"q', "b\\s", " lead",
        "tail ", "\udce4.jpg", "\udcff", "face", "face.",
    ]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8).filter(
    lambda name: name not in {".", ".."}
)  # fmt: skip
PATTERNS = (
    ("{order_id}/{field}.*", "{order_id}_{field}.*"),
    ("*/{order_id}/{field}.*", "{order_id}/{field}.*"),
    ("{order_id}_{field}.*",),
    ("*/*/{field}_{order_id}.jpg", "{order_id}{field}.png", "*/{order_id}{field}.*"),
)


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.lists(PARTS, min_size=1, max_size=3).map("/".join), st.sampled_from([b"", b"x"])), max_size=25
    ),
    st.sampled_from(PATTERNS),
    st.sampled_from(["[A-Za-z0-9][A-Za-z0-9_-]{3,63}", "(?s).+"]),
    st.booleans(),
)
def test_any_file_is_counted_once_and_the_manifest_names_just_those_found(
    names: list[tuple[str, bytes]], patterns: tuple[str, ...], order_id: str, incomplete: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "photos")
        folder.mkdir()
        made = set()
        for name, content in names:
            try:
                lay(folder, [name], content)
            except OSError:  # a file where another has a folder, or the other way round
                continue
            made.add(name)
        try:
            told = scanned(folder, incomplete=incomplete, **pattern(*patterns, order_id_pattern=order_id))
        except BatchuploadError as error:
            told = {"refused": str(error)}
        if "refused" in told:
            assert "no photo of an order was found" in told["refused"]
            assert os.listdir(place) == ["photos"]
            return
        found = fates(told)
        assert found.keys() <= made
        assert sum(told["files"].values()) == len(made)
        assert told["files"]["ignored"] == len(made) - len(found)
        counted = Counter(
            fate if fate in {"used", "waiting", "ambiguous"} else "ambiguous" if "more" in fate else "doubtful"
            for fate in found.values()
        )
        assert counted == Counter({fate: told["files"][fate] for fate in told["files"] if fate != "ignored"})
        assert len(told["rows"]) == sum(told["orders"].values() if incomplete else [told["orders"]["whole"]])
        assert list(told["rows"]) == sorted(told["rows"])
        for path in (path for paths in told["rows"].values() for path in paths if path):
            assert (folder / path).read_bytes() == b"x"
