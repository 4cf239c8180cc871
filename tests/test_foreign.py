"""Text of others: half characters, control characters, marks of direction, in all that is read and shown."""

import asyncio
import csv
import gzip
import json
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import Shop, batchupload, read_report, send_to_sandbox

from batchupload.foreign import restored, stored, to_json, visible, visible_lines, writable
from batchupload.model import Reply, Verdict
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.verdict import judge, parse

HALVES = ["\ud83d", "\udc00", "\ud800x", "x\udfff\ud800"]
EVIL = "\x1b[2J\x1b]0;x\x07\r\n12:00:00 FORGED\u2028\u2029\u202e\u2066\u200f\u061c\u200b\x9b31m\x85\x7f\U000e0041"
NOTE = "note" + EVIL.replace("\r\n", "")
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def evil_in(text: str, *, lines: bool = True) -> set[str]:
    """The characters of `text` that a person can't see, or that a terminal obeys."""
    return {f"U+{ord(one):04X}" for one in text if unicodedata.category(one) in UNSEEN and not (lines and one == "\n")}


# The two functions.


@pytest.mark.parametrize("half", HALVES)
def test_half_a_character_becomes_one_that_can_be_written(half: str) -> None:
    assert writable(half).encode()
    assert re.sub("[\ud800-\udfff]", "\ufffd", half) == writable(half)


def test_two_halves_of_one_character_are_joined() -> None:
    assert writable("a\ud83d\ude00\ud83d") == "a😀\ufffd"


def test_all_that_unicode_calls_control_or_format_is_made_visible() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert not evil_in(visible(everything), lines=False)
    assert not evil_in(visible_lines(everything))
    assert visible("订单　HT-1 é 👍🏽 \ufe0f") == "订单　HT-1 é 👍🏽 \ufe0f"
    assert visible("\x1b\n\t\u202e\U000e0041") == r"\x1b\n\t\u202e\U000e0041"
    assert visible(visible(EVIL)) == visible(EVIL)


def test_json_for_a_terminal_is_the_same_data() -> None:
    told = to_json({"order": EVIL, "half": "\ud800"})
    assert not evil_in(told)
    assert json.loads(told) == {"order": EVIL, "half": "\ud800"}


@pytest.mark.parametrize("path", ["/a/b.csv", "/a/\udcff.csv", '/"quoted".csv', "/订单.csv"])
def test_a_path_that_is_no_text_comes_back_from_the_ledger_as_it_was(path: str) -> None:
    assert stored(path).encode()
    assert restored(stored(path)) == path


# Where text comes in.


@pytest.mark.parametrize("message", ["ok \\ud83d", "\\udc00", "\\ud83d\\ud83d", "a\\uD83D b"])
async def test_half_a_character_in_a_reply_is_written_and_ends_no_run(shop: Shop, message: str) -> None:
    body = f'{{"code":400,"msg":"{message}"}}'.encode()
    finding = judge(Reply(200, body), True, (), datetime.now(UTC), 300)
    assert finding.verdict is Verdict.REJECTED
    assert finding.message.encode()
    assert "\ufffd" in finding.message
    assert parse('{"code":200,"msg":{"\\ud800":"\\udfff"}}').message.encode()


async def test_half_characters_anywhere_in_json_lines_cost_no_other_row(shop: Shop) -> None:
    good, other = shop.order("HT000001"), shop.order("HT000002")
    row = {"order_id": good, "face": f"{good}/face.jpg", "back": f"{good}/back.jpg", "hand": f"{good}/hand.jpg"}
    rows = [
        row | {"note\ud83d": "x\udc00", "deep": {"\ud800": ["\udfff"]}},
        row | {"order_id": "HT\ud800"},
        row | {"order_id": "HT000003", "face": "\ud800.jpg"},
        {key: value.replace(good, other) for key, value in row.items()},
    ]
    manifest = shop.folder / "orders.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)) + '\n{"\\ud800":1,"\\ud801":2}\n')
    summary, report, _ = await send_to_sandbox(manifest)
    report.sort(key=lambda row: int(row["line"]))
    assert [row["outcome"] for row in report] == ["uploaded", "invalid", "invalid", "uploaded", "invalid"]
    assert report[0]["note\ufffd"] == "x\ufffd"
    assert report[1]["order_id"] == "HT\ufffd"
    again, _, _ = await send_to_sandbox(manifest)
    assert summary.exit_code == again.exit_code == 1


@pytest.mark.parametrize(
    "name", ["utf-7", "unicode_escape", "raw_unicode_escape", "rot13", "base64", "idna", "undefined"]
)
def test_what_is_no_charset_is_refused_as_an_encoding(shop: Shop, name: str) -> None:
    shop.order("HT000001")
    done = batchupload("check", shop.manifest(), "--encoding", name, cwd=shop.folder)
    assert done.returncode == 2
    assert "no such encoding" in done.stderr


async def test_a_folder_whose_name_is_no_text_holds_reports_that_are_found_again(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "a\udcffb")
    shop.order("HT000001")
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions()) as sandbox:
        words = ("run", "orders.csv", "--endpoint", sandbox.url, "--quiet")
        for _ in range(2):
            done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder)
            assert done.returncode == 0, done.stderr
    assert manifest.exists()
    told = batchupload("show", "1", "--json", cwd=shop.folder)
    assert Path(json.loads(told.stdout)["report"]).exists()
    assert "\\udcff" in batchupload("show", "1", cwd=shop.folder).stdout


# Where text is shown: every command, with the same evil in whatever it shows.


def evil_shop(folder: Path, url: str) -> Shop:
    """A shop whose order numbers, cells, columns, files, config and endpoint are full of it."""
    shop = Shop(folder)
    shop.rows[0] += [NOTE]
    for number in range(3):
        order = shop.order(f"HT00000{number}")
        shop.rows[-1] = [f"{order}{EVIL}", *shop.rows[-1][1:], EVIL]
    shop.order("HT000009")
    shop.rows[-1] = ["HT000009", f"no{EVIL}.jpg", *shop.rows[-1][2:], EVIL]
    shop.manifest()
    config = {
        "endpoint": {"url": url},
        "photos": {"small_side": 1},
        "retry": {"base": 0.01, "cap": 0.02, "attempts": 2},
        "manifest": {"order_id_pattern": r"(?:.|\s)+", "sheet": EVIL},
        "scan": {"patterns": ["{order_id}/{field}.*"]},
        "report": {"folder": "reports"},
    }
    (shop.folder / "reports").mkdir()
    (shop.folder / "config.yaml").write_text(json.dumps(config))
    return shop


def assert_seen(done: "object") -> None:
    for stream in ("stdout", "stderr"):
        text = getattr(done, stream)
        assert not evil_in(text), (stream, evil_in(text), text)
        assert not re.search(r"^\W*12:00:00 FORGED", text, re.MULTILINE), text


@pytest.fixture
def no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


async def test_no_command_lets_control_characters_of_others_through(tmp_path: Path, no_colour: None) -> None:
    async with Sandbox(SandboxOptions(order_id_pattern=r"(?:.|\s)+")) as sandbox:
        shop = evil_shop(tmp_path / "shop", sandbox.url)

        async def run(*words: str, env: dict[str, str] | None = None) -> "object":
            done = await asyncio.to_thread(batchupload, *words, cwd=shop.folder, env=env)
            assert_seen(done)
            assert "Traceback" not in done.stderr, done.stderr
            return done

        await run("check", "orders.csv", "-vv")
        done = await run("run", "orders.csv", "-v")
        assert r"HT000000\x1b[2J" in done.stderr  # type: ignore[attr-defined]
        await run("run", "orders.csv", "-vv", "--log-format", "json", "--json")
        order = f"HT000000{EVIL}"
        assert r"\u202e" in (await run("show", order)).stdout  # type: ignore[attr-defined]
        for words in (("show", order, "--json"), ("show", "1"), ("show", "1", "--json"), ("history",), ("status",)):
            await run(*words)
        for words in (("history", "--json"), ("status", "--json"), ("release",), ("release", order), ("doctor",)):
            await run(*words)
        report = next((shop.folder / "reports").glob("*.csv"))
        await run("page", str(report))
        (shop.folder / f"photos/HT1{EVIL}").mkdir(parents=True)
        (shop.folder / f"photos/HT1{EVIL}/face.jpg").write_bytes(b"x")
        (shop.folder / f"photos/x{EVIL}.jpg").write_bytes(b"x")
        await run("scan", "photos", "--incomplete")
        await run("scan", "photos", "--json", "-o", "other.csv")
    for page in (shop.folder / "reports").glob("*.html"):
        assert not evil_in(page.read_text(encoding="utf-8").replace("\t", "").replace("\r\n", "\n")) - data_of(page)
    with report.open(encoding="utf-8-sig", newline="") as file:
        assert EVIL in {row[NOTE] for row in csv.DictReader(file)}  # a manifest again, with the cells as they were


def data_of(page: Path) -> set[str]:
    """What stands in the rows that the page's script shows, and makes visible itself."""
    text = page.read_text(encoding="utf-8")
    return evil_in("".join(re.findall(r"(?s)<script type=\"application/json\".*?</script>", text)))


@pytest.mark.parametrize(
    "words",
    [
        (f"run{EVIL}",), (f"--{EVIL}",), ("run", f"--no{EVIL}"), ("run", f"{EVIL}.csv"), ("check", f"*{EVIL}.csv"),
        ("run", "x.csv", "--only", EVIL), ("run", "x.csv", "--delimiter", EVIL), ("run", "x.csv", "--encoding", EVIL),
        ("run", "x.csv", "--deadline", EVIL), ("run", "x.csv", "--rate", EVIL), ("run", "x.csv", "--config", EVIL),
        ("run", "x.csv", "--profile", EVIL), ("run", "x.csv", "--endpoint", f"http://{EVIL}/"), ("show", EVIL),
        ("run", "x.csv", "--max-failures", EVIL), ("run", "x.csv", "--cluster", EVIL), ("run", "--limit", EVIL),
        ("page", f"{EVIL}.csv"), ("scan", EVIL), ("scan", ".", "--pattern", EVIL), ("purge", "--older-than", EVIL),
        ("release", EVIL), ("sandbox", "--fault", EVIL), ("completion", EVIL), ("init", f"no/{EVIL}"),
        ("notify", "--config", EVIL), ("status", "--ledger", EVIL), ("history", "-c", EVIL), ("doctor", "-c", EVIL),
        ("run", "x.csv", "--lang", EVIL), ("run", "x.csv", "--log-format", EVIL), ("show", "1", EVIL),
    ],
    ids=lambda words: "-".join(words).replace(EVIL, "EVIL"),
)  # fmt: skip
def test_no_mistake_on_the_command_line_moves_the_cursor(
    tmp_path: Path, words: tuple[str, ...], no_colour: None
) -> None:
    done = batchupload(*words, cwd=tmp_path)
    assert_seen(done)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "config",
    [
        {EVIL: 1}, {"pace": {EVIL: 1}}, {"pace": {"rate": EVIL}}, {"profiles": {EVIL: {}}}, {"profiles": EVIL},
        {"endpoint": {"url": EVIL}}, {"endpoint": {"more_fields": {EVIL: EVIL}}}, {"photos": {"root": EVIL}},
        {"manifest": {"order_id_pattern": f"({EVIL}"}}, {"ledger": {"path": EVIL}}, {"manifest": {"paths": [EVIL]}},
        {"notify": {"urls": [f"json://{EVIL}"]}}, {"notify": {"urls": [f"${{{EVIL}"]}}, {"cluster": {"address": EVIL}},
        {"endpoint": {"url": "http://\ud800/"}}, {"manifest": {"sheet": "\ud83d"}},
    ],
    ids=lambda config: next(iter(config)) if next(iter(config)) != EVIL else "key",
)  # fmt: skip
def test_no_setting_moves_the_cursor(tmp_path: Path, config: dict[str, object], no_colour: None) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    for command in (("run",), ("doctor",), ("history",)):
        done = batchupload(*command, cwd=tmp_path)
        assert_seen(done)
        assert "Traceback" not in done.stderr
    name = "BATCHUPLOAD_PACE_RATE"
    done = batchupload("history", cwd=tmp_path, env={name: f"{EVIL}\udcff", "BATCHUPLOAD_NO_\udcff": EVIL})
    assert_seen(done)


def test_a_manifest_is_told_with_its_columns_made_visible(shop: Shop, no_colour: None) -> None:
    manifest = shop.folder / "orders.csv"
    shop.folder.mkdir()
    for header in (f"order_id{EVIL},face,back,hand", f'"order_id","face","{EVIL}back","hand"', f'"{EVIL}","b"'):
        manifest.write_text(f"{header}\nHT000001,a,b,c\n", encoding="utf-8", newline="")
        assert_seen(batchupload("check", "orders.csv", cwd=shop.folder))


async def test_an_order_number_can_forge_no_log_line(shop: Shop, no_colour: None) -> None:
    async with Sandbox(SandboxOptions(order_id_pattern=r"(?:.|\s)+")) as sandbox:
        shop = evil_shop(shop.folder, sandbox.url)
        done = await asyncio.to_thread(batchupload, "run", "orders.csv", "-vv", cwd=shop.folder)
    assert_seen(done)
    assert r"\n12:00:00 FORGED" in done.stderr


def test_colours_of_others_are_no_colours(tmp_path: Path) -> None:
    done = batchupload("run\x1b[31m", cwd=tmp_path, env={"FORCE_COLOR": "1"})
    assert "\x1b" not in done.stderr
    assert r"\x1b[31m" in done.stderr


# Blank lines.

HEADER, ROW = b"order_id,face,back,hand\n", b"HT000001,a.jpg,b.jpg,c.jpg\n"
JSON_ROW = b'{"order_id":"HT000001","face":"a","back":"b","hand":"c"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("orders.csv", HEADER + b"\n" * 300_000 + ROW),
        ("orders.csv", b"\n" * 300_000 + HEADER + ROW + b"\r\n" * 100),
        ("orders.csv", HEADER + ROW + b",,,\n" * 200_000),
        ("orders.jsonl", b"\n" * 200_000 + JSON_ROW + b"\n" * 200_000),
        ("orders.csv.gz", gzip.compress(HEADER + b"\n" * 300_000 + ROW)),
    ],
    ids=["between", "before", "separators", "json", "gzip"],
)
def test_millions_of_blank_lines_are_no_rows_and_cost_little(shop: Shop, name: str, content: bytes) -> None:
    shop.folder.mkdir()
    (shop.folder / name).write_bytes(content)
    done = batchupload("check", name, "--json", "--report", "report.csv", cwd=shop.folder)
    assert json.loads(done.stdout)["rows"] == 1, done.stderr
    assert len(read_report(shop.folder / "report.csv")) == 1


def test_a_gzip_file_that_unpacks_without_end_is_refused(shop: Shop) -> None:
    shop.folder.mkdir()
    (shop.folder / "orders.csv.gz").write_bytes(gzip.compress(HEADER + b"\n" * (40 << 20)))
    done = batchupload("check", "orders.csv.gz", cwd=shop.folder)
    assert done.returncode == 2
    assert "unpacks to over 200 times its size" in done.stderr
