"""`batchupload scan`: from photo folders to a manifest that `run` takes, and what it says on the way."""

import asyncio
import csv
import json
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from conftest import Shop, as_plain_user, batchupload, command, environment, outcomes, picture, read_report

from batchupload.model import PHOTO_FIELDS, BatchuploadError
from batchupload.new_manifest import NewManifest
from batchupload.sandbox import Sandbox
from batchupload.shop_settings import ManifestSettings

Done = subprocess.CompletedProcess[str]


def lay(folder: Path, *orders: str, fields: Sequence[str] = PHOTO_FIELDS) -> None:
    """Orders, each in a folder of its own."""
    for order in orders:
        (folder / order).mkdir(parents=True, exist_ok=True)
        for name in fields:
            (folder / order / f"{name}.jpg").write_bytes(picture(name, order))


def rows(manifest: Path) -> list[list[str]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def refused(done: Done, *words: str) -> None:
    """Exit 2, a message with these words, and no file left behind."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `photos` in it, of two whole orders."""
    lay(tmp_path / "photos", "HT0002", "HT0001")
    return tmp_path


def test_whole_orders_become_a_manifest_for_its_owner(place: Path) -> None:
    done = batchupload("scan", "photos", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "Scanned 6 files in photos: 2 orders, all whole." in done.stdout
    assert "Manifest: photos.csv (2 rows)\nNext:   batchupload check photos.csv" in done.stdout
    manifest = place / "photos.csv"
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o600
    assert manifest.read_bytes().startswith(b"\xef\xbb\xbforder_id,face,back,hand\r\n")
    assert rows(manifest)[1:] == [
        [order, *(f"photos/{order}/{name}.jpg" for name in PHOTO_FIELDS)] for order in ("HT0001", "HT0002")
    ]
    assert sorted(path.name for path in place.iterdir()) == ["photos", "photos.csv"]


async def test_what_is_scanned_is_uploaded(shop: Shop) -> None:
    photos = shop.folder / "照片 2023"
    lay(photos, "HT0001", "HT0002")
    lay(photos / "=1+1", "HT0003")
    for name, chinese in (("face", "人像面"), ("back", "国徽面"), ("hand", "免冠照")):
        (photos / "HT0002" / f"{name}.jpg").rename(photos / f"HT0002_{chinese}.JPG")
    patterns = [
        "--pattern",
        "{order_id}/{field}.*",
        "--pattern",
        "{order_id}_{field}.*",
        "--pattern",
        "*/{order_id}/{field}.*",
    ]
    done = batchupload("scan", photos.name, *patterns, "-o", "orders.csv", cwd=shop.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    async with Sandbox() as server:
        done = await asyncio.to_thread(batchupload, "run", "orders.csv", "--endpoint", server.url, cwd=shop.folder)
        assert done.returncode == 0, done.stdout
        assert set(server.accepted) == {"HT0001", "HT0002", "HT0003"}
    report = read_report(next(shop.folder.glob("*.report-*.csv")))
    assert set(outcomes(report).values()) == {("uploaded", "accepted")}


def test_what_is_not_whole_is_left_out_and_listed(place: Path) -> None:
    photos = place / "photos"
    lay(photos, "HT0003", fields=["face"])
    lay(photos, "HT0004")
    (photos / "HT0004/face.png").write_bytes(b"x")
    (photos / "HT0005").mkdir()
    (photos / "notes.txt").write_bytes(b"x")
    (photos / "Thumbs.db").write_bytes(b"x")
    done = batchupload("scan", "photos", cwd=place)
    assert done.returncode == 1
    assert "5 orders, 3 need a person." in done.stdout
    for line in (
        "  whole             2",
        "  missing           2   → bring the photo",
        "HT0003  no back, hand",
        "HT0005  no face, back, hand",
        "  ambiguous         1   → keep one file",
        "HT0004  face: HT0004/face.jpg or HT0004/face.png",
        "  left over         1",
        "notes.txt  no picture",
        "Ignored: 1 hidden or system file",
    ):
        assert line in done.stdout
    assert [row[0] for row in rows(place / "photos.csv")] == ["order_id", "HT0001", "HT0002"]


def test_incomplete_orders_get_a_row_that_is_invalid(place: Path) -> None:
    lay(place / "photos", "HT0003", fields=["face", "hand"])
    done = batchupload("scan", "photos", "--incomplete", cwd=place)
    assert done.returncode == 1
    assert rows(place / "photos.csv")[3] == ["HT0003", "photos/HT0003/face.jpg", "", "photos/HT0003/hand.jpg"]
    assert batchupload("check", "photos.csv", cwd=place).returncode == 1
    report = outcomes(read_report(next(place.glob("*.report-*.csv"))))
    assert report == {
        "HT0001": ("deferred", "not_sent"), "HT0002": ("deferred", "not_sent"), "HT0003": ("invalid", "missing_cell"),
    }  # fmt: skip


def test_where_no_order_is_whole_no_manifest_is_written(tmp_path: Path) -> None:
    lay(tmp_path / "photos", "HT0003", fields=["face"])
    done = batchupload("scan", "photos", cwd=tmp_path)
    assert done.returncode == 1
    assert "No manifest was written: no order is whole" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_notes_need_nobody_but_a_picture_left_over_does(place: Path) -> None:
    (place / "photos/list.xlsx").write_bytes(b"x")
    assert batchupload("scan", "photos", "-o", "1.csv", cwd=place).returncode == 0
    (place / "photos/HT0003-front.jpg").write_bytes(b"x")
    assert batchupload("scan", "photos", "-o", "2.csv", cwd=place).returncode == 1


def test_the_line_for_machines_has_all_that_the_screen_has(place: Path) -> None:
    lay(place / "photos", *(f"HT9{number:03}" for number in range(30)), fields=["face", "back"])
    done = batchupload("scan", "photos", "--json", cwd=place)
    assert done.stdout.count("\n") == 1
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode == 1
    assert told["orders"] == {"whole": 2, "missing": 30, "ambiguous": 0}
    assert told["files"] == {"used": 6, "waiting": 60, "ambiguous": 0, "doubtful": 0, "ignored": 0}
    assert len(told["findings"]["missing"]) == 30
    assert told["next_command"] == "batchupload check photos.csv"
    shown = batchupload("scan", "photos", "-o", "2.csv", cwd=place).stdout
    assert shown.count("no hand") == 20
    assert "… and 10 more: --all lists them" in shown
    assert batchupload("scan", "photos", "-o", "3.csv", "--all", cwd=place).stdout.count("no hand") == 30


def test_a_manifest_that_is_there_is_left_as_it_is(place: Path) -> None:
    (place / "photos.csv").write_text("mine")
    refused(batchupload("scan", "photos", cwd=place), "photos.csv: this file exists", "-o")
    (place / "link.csv").symlink_to("gone.csv")
    refused(batchupload("scan", "photos", "-o", "link.csv", cwd=place), "link.csv: this file exists")
    assert (place / "photos.csv").read_text() == "mine"
    assert sorted(path.name for path in place.iterdir()) == ["link.csv", "photos", "photos.csv"]


def test_a_manifest_that_comes_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    with NewManifest(tmp_path / "m.csv", ManifestSettings()) as new:
        new.write("HT0001", ["a.jpg", "b.jpg", "c.jpg"])
        (tmp_path / "m.csv").write_text("mine")
        with pytest.raises(BatchuploadError, match="this file exists"):
            new.finish()
    assert (tmp_path / "m.csv").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent"], ["absent: no such folder"]),
        (["notes.txt"], ["notes.txt: this is not a folder"]),
        (["empty"], ["no photo of an order was found", "No file was seen", "{order_id}/{field}.*"]),
        (["photos/HT0001"], ["3 files were seen, such as ", ".jpg", "HT2023111015044046891/face.jpg", "人像面"]),
        (["photos", "--pattern", "{order}/{field}.*"], ["--pattern", "{order} is neither {order_id} nor {field}"]),
        (["photos", "--pattern", "{order_id}_{field}.*"], ["6 files were seen", "Looked for {order_id}_{field}.*,"]),
        (["photos", "-o", "elsewhere/m.csv"], ["does not lie below", "--photos-root photos"]),
        (["photos", "-o", "absent/m.csv"], ["absent: no such folder"]),
        (["photos", "-o", "m.csv", "--photos-root", "empty"], ["does not lie below", "photos.root"]),
        (["photos", "-o", "a\nb.csv"], ["can't be written in a report", "-o"]),
        (["/"], ["has no name", "-o"]),
        ([], ["FOLDER"]),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_writes_nothing(place: Path, arguments: list[str], words: list[str]) -> None:
    for name in ("empty", "elsewhere"):
        (place / name).mkdir()
    (place / "notes.txt").write_text("x")
    before = sorted(place.rglob("*"))
    refused(batchupload("scan", *arguments, cwd=place), *words)
    assert sorted(place.rglob("*")) == before


def test_the_manifest_may_lie_anywhere_with_a_photo_folder_named(place: Path) -> None:
    (place / "lists").mkdir()
    done = batchupload("scan", "photos", "-o", "lists/m.csv", "--photos-root", "photos", cwd=place)
    assert done.returncode == 0, done.stderr
    assert rows(place / "lists/m.csv")[1] == ["HT0001", *(f"HT0001/{name}.jpg" for name in PHOTO_FIELDS)]
    following = done.stdout.rsplit("Next:   batchupload ", 1)[1].split()
    assert following == ["check", "lists/m.csv", "--photos-root", "photos"]
    assert batchupload(*following, cwd=place).returncode == 0


@pytest.mark.parametrize(("folder", "manifest"), [(".", "photos/m.csv"), ("..", "m.csv")])
def test_a_manifest_in_the_folder_itself_is_none_of_its_files(place: Path, folder: str, manifest: str) -> None:
    here = place / "photos" / ("HT0001" if folder == ".." else "")
    done = batchupload("scan", folder, "-o", place / "photos" / "m.csv", cwd=here)
    assert "Scanned 6 files" in done.stdout
    assert rows(place / "photos/m.csv")[1][1] == "HT0001/face.jpg"
    assert batchupload("scan", folder, cwd=here).returncode == 0
    assert rows(place / "photos.csv")[1][1] == "photos/HT0001/face.jpg"


def test_a_folder_behind_a_link_is_scanned_where_it_is(place: Path) -> None:
    (place / "link").symlink_to("photos")
    (place / "photos/HT0001/round").symlink_to("..")
    done = batchupload("scan", "link", cwd=place)
    assert done.returncode == 1
    assert "HT0001/round  a link to a folder, which is not followed" in done.stdout
    assert "Scanned 7 files" in done.stdout
    assert batchupload("check", "link.csv", cwd=place).returncode == 0


def test_folders_that_may_not_be_entered_are_listed(place: Path) -> None:
    (place / "photos/HT0003").mkdir(mode=0)
    lay(place / "photos", "HT0004")
    for name in PHOTO_FIELDS:
        (place / f"photos/HT0004/{name}.jpg").rename(place / f"photos/HT0004_{name}.jpg")
    (place / "photos/HT0004").chmod(0)
    done = subprocess.run(
        command("scan", "photos"), cwd=place, env=environment(), capture_output=True, text=True, timeout=60,
        preexec_fn=as_plain_user, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "no access         2" in done.stdout
    assert "HT0003  Permission denied" in done.stdout
    assert "HT0004 can't be read" in done.stdout
    assert [row[0] for row in rows(place / "photos.csv")] == ["order_id", "HT0001", "HT0002"]


def test_names_that_no_screen_shows_are_escaped(place: Path) -> None:
    (place / "photos/HT0001/\udce4\n\u202e.jpg").write_bytes(b"x")
    done = batchupload("scan", "photos", cwd=place)
    assert r"HT0001/\udce4\n\u202e.jpg  fits no pattern" in done.stdout


@pytest.mark.parametrize(
    ("config", "environment"),
    [
        ("scan: {patterns: '{field}/{order_id}.*'}\nmanifest: {columns: {hand: [自拍]}}\n", {}),
        (
            "manifest: {columns: {hand: 自拍}, order_id_pattern: 'H.*'}\n",
            {"BATCHUPLOAD_SCAN_PATTERNS": "['{field}/{order_id}.*']"},
        ),
        (
            "manifest: {columns: {hand: 自拍}, delimiter: ';', encoding: gb18030}\nphotos: {root: photos}\n",
            {"BATCHUPLOAD_SCAN_PATTERNS": "'{field}/{order_id}.*'"},
        ),
    ],
)  # fmt: skip
def test_the_config_says_how_files_are_named_and_manifests_read(
    tmp_path: Path, config: str, environment: Mapping[str, str]
) -> None:
    for name in ("face", "国徽面", "自拍"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "HT0001.jpg").write_bytes(picture(name))
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    done = batchupload("scan", "photos", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    following = done.stdout.rsplit("Next:   batchupload ", 1)[1].split()
    assert batchupload(*following, cwd=tmp_path, env=environment).returncode == 0


def test_columns_that_would_swap_the_photos_are_refused(place: Path) -> None:
    (place / "config.yaml").write_text("manifest: {columns: {face: back, back: face}}\n")
    refused(batchupload("scan", "photos", cwd=place), "read otherwise than it was written", "manifest.columns")
    assert sorted(path.name for path in place.iterdir()) == ["config.yaml", "photos"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_scan_that_is_stopped_leaves_nothing(place: Path, number: int) -> None:
    (place / "config.yaml").write_text("{}")
    killing = (
        "import os, signal, sys; from batchupload import scan_job; from batchupload.cli import main\n"
        f"scan_job.settle = lambda *_: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv[1:] = ['scan', 'photos']\nmain()"
    )
    done = subprocess.run(
        [*command()[:1], "-c", killing], cwd=place, env=environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["config.yaml", "photos"]
