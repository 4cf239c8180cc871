"""The README says what the program does: its examples are run, its tables compared with the code."""

import asyncio
import csv
import inspect
import re
import tomllib
from gettext import GNUTranslations
from io import BytesIO
from pathlib import Path

import catalogue
import pytest
from conftest import Shop, batchupload, picture, send, settings_for

from batchupload.cli import EXIT_CODES, cli
from batchupload.config import keys
from batchupload.model import Outcome
from batchupload.reasons import Reason
from batchupload.samples import draw_photo
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.sheet import REPORT_COLUMNS
from batchupload.summary import NEXT_STEP

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
IN = {"en": README, "zh": CHINESE}


def block(name: str, readme: str = README) -> str:
    """The fenced text after a marker."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", readme, re.DOTALL)
    assert found, name
    return found[1]


def table(header: str, readme: str = README) -> list[list[str]]:
    """The cells of the first table with this header line."""
    lines = readme[readme.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def masked(screen: str) -> str:
    """Without what differs from run to run."""
    screen = re.sub(r"report-\d{8}-\d{6}", "report-TIME", screen)
    screen = re.sub(
        r"(It was held back by|瓶颈：)[^\n]*\n([^\n]+\n)?(?=Report|报告)", "", screen
    )  # as on a busy machine
    return re.sub(r"(sends, |次），).*", r"\1", screen).strip()


@pytest.fixture
def example(shop: Shop) -> Shop:
    """The folder of the README's example."""
    for person in ("zhang", "li", "wang"):
        for name in ("正面", "反面", "免冠"):
            shop.write(f"{person}/{name}.jpg", draw_photo(name, person))
    shop.write("wang/免冠.jpg", b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(1000))
    (shop.folder / "orders.csv").write_bytes(block("example: orders.csv").replace("\n", "\r\n").encode("gb18030"))
    return shop


@pytest.mark.parametrize("language", IN)
def test_the_check_of_the_example_shows_what_the_readme_shows(example: Shop, language: str) -> None:
    done = batchupload("check", "orders.csv", cwd=example.folder, env={"BATCHUPLOAD_LANG": language})
    command, _, screen = block("example: check", IN[language]).partition("\n")
    assert command == "$ batchupload check orders.csv"
    assert masked(done.stdout) == masked(screen)


@pytest.mark.parametrize("language", IN)
async def test_the_run_of_the_example_shows_and_reports_what_the_readme_shows(example: Shop, language: str) -> None:
    rules = (parse_fault("refused@HT2023111015044046892"),)
    async with Sandbox(SandboxOptions(rules)) as server:
        env = {"BATCHUPLOAD_ENDPOINT_URL": server.url, "BATCHUPLOAD_LANG": language}
        done = await asyncio.to_thread(batchupload, "run", "orders.csv", cwd=example.folder, env=env)
    assert masked(done.stdout) == masked(block("example: run", IN[language]).partition("\n")[2])
    shown = table("| line | order_id | outcome", IN[language])
    header = README[README.index("| line | order_id | outcome") :].splitlines()[0].strip("| ").split(" | ")
    report = next(example.folder.glob("*.report-*.csv"))
    with report.open(encoding="utf-8-sig", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["line"]))
    assert [[row[name] for name in header] for row in rows] == shown


async def test_what_changed_in_the_example_is_what_the_readme_shows(shop: Shop) -> None:
    number = "HT202311101504404689{}".format
    for last in range(1, 7):
        shop.order(number(last))
    manifest = shop.manifest()
    async with Sandbox(
        SandboxOptions(tuple(parse_fault(f"refused@{number(last)}") for last in (1, 2, 5, 6)))
    ) as server:
        await send(manifest, settings_for(server.url))
        port = server.port
    shop.rows.pop()
    (shop.folder / number(4) / "hand.jpg").unlink()
    async with Sandbox(SandboxOptions(tuple(parse_fault(f"refused@{number(last)}") for last in (2, 5))), port=port):
        await send(shop.manifest(), settings_for(server.url))
    done = batchupload("show", "2", cwd=shop.folder)
    command, _, screen = block("example: show").partition("\n…\n")
    assert command == "$ batchupload show 2"
    assert done.stdout.endswith(screen)


@pytest.mark.parametrize("language", IN)
def test_the_scan_of_the_example_shows_what_the_readme_shows(shop: Shop, language: str) -> None:
    for person, fields in {
        "HT2023111015044046891": ("face", "back", "hand"),
        "HT2023111015044046892": ("face", "back"),
    }.items():
        for name in fields:
            shop.write(f"photos/{person}/{name}.jpg", picture(name, person))
    for name in ("人像面.jpg", "国徽面.jpg", "免冠照.jpg", "免冠照.png"):
        shop.write(f"photos/HT2023111015044046893_{name}", picture(name))
    shop.write("photos/IMG_0412.jpg", picture("hand"))
    shop.write("photos/.DS_Store", b"x")
    done = batchupload("scan", "photos", cwd=shop.folder, env={"BATCHUPLOAD_LANG": language})
    command, _, screen = block("example: scan", IN[language]).partition("\n")
    assert command == "$ batchupload scan photos"
    assert done.stdout == screen


def test_the_tables_are_those_of_the_code() -> None:
    assert {int(code): meaning for code, meaning in table("| code | meaning |")} == EXIT_CODES
    assert {name: step for name, _, step in table("| outcome | meaning |")} == {
        outcome.value: NEXT_STEP[outcome] or "none" for outcome in Outcome
    }
    assert dict(table("| reason | what it means")) == {reason.value: reason.sentence for reason in Reason}


def test_the_chinese_tables_are_those_of_the_catalogue() -> None:
    translations = GNUTranslations(BytesIO(catalogue.MO.read_bytes()))
    assert dict(table("| 原因 | 含义", CHINESE)) == {
        reason.value: translations.gettext(reason.english) for reason in Reason
    }
    assert {name: step for name, _, step in table("| 结果 | 含义", CHINESE)} == {
        outcome.value: translations.gettext(NEXT_STEP[outcome]) if NEXT_STEP[outcome] else "无" for outcome in Outcome
    }
    help_text = translations.gettext(inspect.cleandoc(cli.commands["run"].epilog or ""))
    codes = [line.split(None, 1) for line in help_text.splitlines()[2:]]
    assert table("| 退出码 | 含义", CHINESE) == codes
    assert [int(code) for code, _ in codes] == [*EXIT_CODES]


@pytest.mark.parametrize("readme", IN.values(), ids=IN)
def test_every_command_and_report_column_is_named(readme: str) -> None:
    assert [name for name in cli.commands if f"`batchupload {name}" not in readme] == []
    assert ", ".join(REPORT_COLUMNS) in " ".join(readme.split())


@pytest.mark.parametrize("name", ["demo", "tests", "example: orders.csv", "nightly"])
def test_the_chinese_commands_are_the_english_ones(name: str) -> None:
    assert block(name, CHINESE) == block(name)


def test_every_file_of_the_package_is_in_the_architecture() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", README[README.index("## Architecture") :]))
    package = ROOT / "batchupload"
    there = {str(path.relative_to(package)) for path in package.rglob("*.py") if not path.name.startswith("__")}
    assert named == there


@pytest.mark.parametrize("readme", IN.values(), ids=IN)
def test_every_named_setting_exists(readme: str) -> None:
    known = {".".join(map(str, key)) for key in keys()}
    sections = "|".join({str(section) for section, _ in keys()})
    named = set(re.findall(rf"`((?:{sections})\.\w+)[:`]", readme))
    assert named <= known | {f"{name}.py" for name in sections.split("|")}
    assert "endpoint.url" in named


def test_what_shows_a_claim_is_there() -> None:
    chapter = README[README.index("## What happens when…") : README.index("## Configuration")]
    rows = [line.rsplit("|", 2)[1] for line in chapter.splitlines() if line.startswith("| ")]
    proofs = [proof for cell in rows for proof in re.findall(r"`(test_\w+\.py)(?: -k (\w+|\"[^\"]+\"))?`", cell)]
    assert len(proofs) > 50
    assert [cell for cell in rows if "`test_" not in cell and cell.strip() not in {"shown by", "---"}] == []
    for name, words in proofs:
        text = (ROOT / "tests" / name).read_text(encoding="utf-8")
        tests = "\n".join(re.findall(r"def test_\w+|^    \"\w+\": \(", text, re.MULTILINE))
        assert [word for word in words.strip('"').split(" or ") if word not in tests] == [], name


@pytest.mark.parametrize("language", IN)
def test_every_link_within_leads_somewhere(language: str) -> None:
    anchors = {name: _anchors(readme) for name, readme in IN.items()}
    assert set(re.findall(r"\(#([^)]*)\)", IN[language])) <= anchors[language]
    assert set(re.findall(r"\(README\.md#([^)]*)\)", IN[language])) <= anchors["en"]
    assert f"](README{'.zh-CN' if language == 'en' else ''}.md)" in IN[language][:100]


def _anchors(readme: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", readme, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_dependency_is_explained() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    project = tomllib.loads(text)["project"]
    for requirement in project["dependencies"]:
        assert re.split(r"[<>=\[]", requirement)[0] in comments
