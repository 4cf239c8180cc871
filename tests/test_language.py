"""English and Chinese: which one is spoken, that nothing is left untranslated, and that no meaning hangs on it."""

import ast
import asyncio
import io
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import catalogue
import pytest
from babel.messages.mofile import read_mo
from conftest import Shop, batchupload, outcomes, read_report
from wcwidth import wcswidth

from batchupload.cells import cut, pad, wrap
from batchupload.cli import cli
from batchupload.colour import plain
from batchupload.language import choose
from batchupload.model import Outcome
from batchupload.progress import block
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.snapshot import Lookout, PaceNow
from batchupload.summary import Tally

TWO_WORDS = re.compile(r"[A-Za-z]{2,},? [a-z]{2,}")
NOT_SAID = re.compile(
    r"\s*(SELECT|INSERT|REPLACE|UPDATE|DELETE|CREATE|DROP|PRAGMA) "  # to the database
    r"|\s*</?[a-z!]|\"?>"  # markup
)
FOR_NOBODY = {"TypeError", "RuntimeError", "info", "debug", "Field"}
"""Calls whose words are for programmers, for `-v`, or for config.example.yaml, which is in English."""
NO_MESSAGES = {
    "samples.py",  # notes in the demo's manifest, which is data
    *("metrics.py", "run_log.py"),  # for Prometheus, and for whoever reads JSON log lines
    "verdict.py:the same key twice: readers differ in which one they take",  # caught there
    "verdict.py: is no JSON",
    "config.py:Input should be",  # how pydantic begins
    "config.py:Value error, ",
    "fault.py:, a fault in batchupload itself",  # for want of memory even to look a translation up
    "scan.py:system volume information",  # a folder of Windows
    "cli_care.py:tuple[Settings | None, str]",
}
EXAMPLE_CONFIG = re.compile("# |\\[resize")


@pytest.mark.parametrize(
    ("words", "environment", "language"),
    [
        ("", {}, "en"),
        ("", {"LANG": "zh_CN.UTF-8"}, "zh"),
        ("", {"LANG": "zh"}, "zh"),
        ("", {"LANG": "zh-Hans"}, "zh"),
        ("", {"LANG": "zh_Hans_CN.UTF-8"}, "zh"),
        ("", {"LANG": "zh_CN.GB18030@stroke"}, "zh"),
        ("", {"LANG": "zh_TW.UTF-8"}, "en"),
        ("", {"LANG": "de_DE.UTF-8"}, "en"),
        ("", {"LANG": "zh_CN", "LC_MESSAGES": "en_US"}, "en"),
        ("", {"LANG": "zh_CN", "LC_ALL": "C"}, "en"),
        ("", {"LC_ALL": "en_US", "LANGUAGE": "zh_CN:en"}, "zh"),
        ("", {"LANG": "zh_CN", "LANGUAGE": "fr:en:zh"}, "en"),
        ("", {"LANG": "zh_CN", "LANGUAGE": ""}, "zh"),
        ("", {"LANG": "zh_CN", "BATCHUPLOAD_LANG": "en"}, "en"),
        ("run --lang zh a.csv", {"BATCHUPLOAD_LANG": "en"}, "zh"),
        ("--lang=zh run a.csv", {}, "zh"),
        ("--lang zh run a.csv --lang en", {}, "en"),
        ("run -- --lang zh", {}, "en"),
        ("run --lang", {}, "en"),
        ("run --lang fr", {"LANG": "zh_CN"}, "zh"),
    ],
)
def test_the_language_is_the_one_asked_for_or_that_of_the_locale(
    words: str, environment: Mapping[str, str], language: str
) -> None:
    assert choose(words.split(), environment) == language


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["--lang", "zh", "show", "7"], {}),
        (["show", "7", "--lang=zh"], {}),
        (["show", "7"], {"BATCHUPLOAD_LANG": "zh"}),
        (["show", "7"], {"LANGUAGE": "", "LC_ALL": "zh_CN.UTF-8"}),
    ],
)
def test_a_message_is_in_chinese(words: list[str], env: Mapping[str, str], tmp_path: Path) -> None:
    done = batchupload(*words, cwd=tmp_path, env=env)
    assert done.returncode == 5
    assert "还没有台账" in done.stderr


@pytest.mark.parametrize(("words", "env"), [(["--lang", "fr"], {}), ([], {"BATCHUPLOAD_LANG": "fr"})])
def test_an_unknown_language_is_wrong_usage(words: list[str], env: Mapping[str, str], tmp_path: Path) -> None:
    for arguments in ([*words, "history"], ["history", *words]):
        done = batchupload(*arguments, cwd=tmp_path, env=env)
        assert done.returncode == 2
        assert all(word in done.stderr for word in ("--lang", "fr", "en", "zh"))


@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help_is_in_chinese_throughout(command: str, tmp_path: Path) -> None:
    done = batchupload(*command.split(), "--help", "--lang", "zh", cwd=tmp_path)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if not re.search(r" batchupload \w", line)]
    assert [line for line in lines if re.search("[a-z]{2,} [a-z]{2,} [a-z]{2,}", line)] == []
    assert "--lang" in done.stdout


@pytest.fixture
def night(shop: Shop) -> Shop:
    """Orders of which some go wrong, in each stage."""
    shop.orders(6)
    shop.order("HT-wrong", {"hand": b"GIF89a" + bytes(100)})
    shop.order("HT-gone", face="gone.jpg")
    shop.order("HT-refused")
    shop.order("HT-lost")
    shop.manifest()
    return shop


async def sent(shop: Shop, *words: str, faults: Sequence[str] = ("refused@HT-refused", "html_page@HT-lost")) -> str:
    """A run by the program itself, and what it says."""
    async with Sandbox(SandboxOptions(tuple(map(parse_fault, faults)))) as server:
        env = {
            "BATCHUPLOAD_ENDPOINT_URL": server.url,
            "BATCHUPLOAD_RETRY_BASE": "0.01",
            "BATCHUPLOAD_RETRY_CAP": "0.02",
        }
        done = await asyncio.to_thread(batchupload, "run", *words, cwd=shop.folder, env=env)
    assert done.returncode == 1, done.stderr
    return done.stdout


async def test_a_chinese_run_tells_the_same_and_its_report_goes_on_in_english(night: Shop) -> None:
    chinese = await sent(night, "orders.csv", "--lang", "zh", "--report", "zh.csv")
    (night.folder / "batchupload.db").unlink()
    english = await sent(night, "orders.csv", "--report", "en.csv")
    assert "已完成：10 行，3 项需人工处理，1 项需再次运行。" in chinese
    assert "Finished: 10 rows, 3 need a person and 1 another run." in english
    for word in (
        "uploaded 已上传",
        "invalid 无效",
        "rejected 被拒",
        "unknown 未知",
        "photo_wrong_type",
        "报告：zh.csv",
    ):
        assert word in chinese
    reports = [read_report(night.folder / name) for name in ("zh.csv", "en.csv")]
    assert list(reports[0][0]) == list(reports[1][0])
    assert outcomes(reports[0]) == outcomes(reports[1])
    details = [{row["order_id"]: row["detail"] for row in report} for report in reports]
    assert details[0]["HT-wrong"] == "hand: 这是 GIF"
    assert details[1]["HT-wrong"] == "hand: this is GIF"
    english = await sent(night, "zh.csv", "--only", "unknown", "--report", "next.csv", faults=["html_page@HT-lost"])
    assert [*outcomes(read_report(night.folder / "next.csv"))] == ["HT-lost"]
    for language, name, word in (("en", "zh", "Rows that are left"), ("zh", "en", "待处理的行")):
        done = batchupload("page", f"{name}.csv", "--lang", language, cwd=night.folder)
        assert done.returncode == 0, done.stderr
        page = (night.folder / f"{name}.html").read_text(encoding="utf-8")
        assert word in page
        assert f'<html lang="{"zh-CN" if language == "zh" else "en"}"' in page


async def test_workers_of_a_cluster_speak_the_language_of_their_run(shop: Shop) -> None:
    pytest.importorskip("distributed")
    shop.order("HT-wrong", {"hand": b"GIF89a" + bytes(100)})
    shop.order("HT-good")
    shop.manifest()
    async with Sandbox(SandboxOptions()) as server:
        words = ("run", "orders.csv", "--lang", "zh", "--report", "report.csv", "--cluster", "local:2")
        await asyncio.to_thread(batchupload, *words, cwd=shop.folder, env={"BATCHUPLOAD_ENDPOINT_URL": server.url})
    details = {row["order_id"]: row["detail"] for row in read_report(shop.folder / "report.csv")}
    assert details["HT-wrong"] == "hand: 这是 GIF"
    assert "警告：face 太小，64 × 40" in details["HT-good"]


def test_what_the_ledger_knows_is_told_in_either_language(shop: Shop) -> None:
    shop.order("HT-1")
    shop.manifest()
    env = {"BATCHUPLOAD_ENDPOINT_URL": "http://127.0.0.1:9/", "BATCHUPLOAD_RETRY_ATTEMPTS": "1"}
    assert batchupload("run", "orders.csv", "--lang", "zh", cwd=shop.folder, env=env).returncode in {1, 3}
    for language, words in (("zh", ("第 1 次运行", "接口拒绝连接")), ("en", ("run 1", "refused the connection"))):
        done = batchupload("show", "HT-1", "--lang", language, cwd=shop.folder, env=env)
        assert all(word in done.stdout for word in words), done.stdout


@pytest.mark.parametrize("columns", [30, 60, 80])
@pytest.mark.parametrize(
    "text",
    [
        "照片超过 photos.max_pixels 的限制（默认 50 兆像素）：请另存为更小的图片，再运行一次。见“detail”列。",
        "The photo can't be read: see detail; check its permissions and the disk, or what its host says.",
    ],
)
def test_lines_are_filled_by_columns_and_no_mark_begins_one(text: str, columns: int) -> None:
    lines = wrap(text, columns)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    assert max(map(wcswidth, lines)) <= columns
    assert [line for line in lines if line[0] in "，。：；）” " or line[-1] in "（“ "] == []


def test_columns_are_counted_as_a_terminal_does() -> None:
    assert pad("已上传", 8) + "|" == "已上传  |"
    assert cut("清单清单清单", 7) == "清单清…"
    assert cut("清单", 4) == "清单"


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120])
def test_the_chinese_display_fits(columns: int) -> None:
    note = "同时 12 个（再多也只是在接口排队）"
    tally = Tally(outcomes=Counter({Outcome.UPLOADED: 1200, Outcome.FAILED: 3, Outcome.UNKNOWN: 2}), rows=1205)
    now = Lookout(tally, 40000, lambda: PaceNow(note=note), lambda: 0.0, sends=True).look()
    shown = block(now, columns)
    assert (shown.bar and shown.bar + 2) + wcswidth(shown.counts) <= columns
    assert wcswidth(plain(shown.outcomes)) <= columns


def test_every_message_has_a_translation() -> None:
    """Where this fails: `python tests/catalogue.py`, and put in what it names."""
    catalog = catalogue.read()
    said = dict.fromkeys(message for _, message in catalogue.messages())
    assert [message for message in said if message not in catalog] == []
    assert [one.id for one in catalogue.entries(catalog) if not catalogue.is_translated(one) or one.fuzzy] == []


def test_no_translation_is_left_of_what_is_no_longer_said() -> None:
    said = {_first(message) for _, message in (*catalogue.messages(), *catalogue.of_click())}
    entries = catalogue.entries(catalogue.read())
    here = [one for one in entries if not all(place.startswith("click/") for place, _ in one.locations)]
    assert [one.id for one in here if _first(one.id) not in said] == []
    assert catalogue.read().obsolete == {}


def test_a_translation_has_the_same_places_for_what_varies() -> None:
    for one in catalogue.entries(catalogue.read()):
        for text in _texts(one.string):
            wanted = [_places(english) for english in _texts(one.id)]
            if all(place.startswith("click/") for place, _ in one.locations):  # which gives more than it asks for
                assert _places(text) <= wanted[0] | wanted[-1], one.id
            else:
                assert _places(text) in wanted, one.id


def test_the_compiled_catalogue_is_what_the_text_says() -> None:
    # Read back: the bytes name the version of what compiled them.
    here, text = (
        read_mo(io.BytesIO(compiled)) for compiled in (catalogue.MO.read_bytes(), catalogue.compiled(catalogue.read()))
    )
    assert here.mime_headers == text.mime_headers
    assert [(one.id, one.string) for one in here] == [(one.id, one.string) for one in text]


def test_no_text_for_people_is_said_without_asking_the_catalogue() -> None:
    """Where this fails: write `_("…")`, or name in `NO_MESSAGES` what nobody reads."""
    known = "\n".join(text for _, message in catalogue.messages() for text in _texts(message))
    found = [
        f"{path.name}:{text}"
        for path in sorted(catalogue.PACKAGE.rglob("*.py"))
        for text in _words(ast.parse(path.read_text(encoding="utf-8")))
        if path.name not in NO_MESSAGES and text not in known
    ]
    found = [one for one in found if not (one.startswith("config.py:") and EXAMPLE_CONFIG.match(one[10:]))]
    assert sorted(set(found) - NO_MESSAGES) == []


def test_every_call_of_the_catalogue_is_seen_by_gettext() -> None:
    """Its tools see none within an f-string, and none of a text that is put together."""
    said = {_first(message) for _, message in catalogue.messages()}
    for path in sorted(catalogue.PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id in {"_", "N_"}:
                asked = call.args[0]
                assert not isinstance(asked, ast.JoinedStr | ast.BinOp), f"{path.name}:{call.lineno}"
                if isinstance(asked, ast.Constant):
                    assert asked.value in said, f"{path.name}:{call.lineno}"


def _words(tree: ast.AST) -> Iterator[str]:
    """Literals that look like a text for people, and don't go through the catalogue."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in {"_", "N_", "several", *FOR_NOBODY}:
                skipped.update(part for argument in [*node.args, *node.keywords] for part in ast.walk(argument))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            text = node.value.strip("\n")
            if TWO_WORDS.search(text) and not NOT_SAID.match(text):
                yield node.value


def _first(message: object) -> object:
    return message[0] if isinstance(message, tuple | list) else message


def _texts(message: object) -> list[str]:
    return [message] if isinstance(message, str) else [str(text) for text in message]  # type: ignore[attr-defined]


def _places(text: str) -> set[str]:
    fields = {f"{name}!{how}:{form}" for _, name, form, how in string.Formatter().parse(text) if name is not None}
    fields = {re.sub("%.*", "%", field) for field in fields}  # a date may be written otherwise
    return fields | set(re.findall(r"%[sd]|%\(\w+\)s|</?code>|--[a-z-]+|`batchupload [^`]+`", text))
