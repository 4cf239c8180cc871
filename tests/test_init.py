"""`batchupload init` asks a person at a terminal, and what it writes means what was answered."""

import fcntl
import os
import pty
import re
import select
import stat
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import batchupload, command, environment
from hypothesis import given
from hypothesis import strategies as st

from batchupload.config import example, keys, load
from batchupload.interview import QUESTIONS, Stage, interview
from batchupload.settings import Settings

PROMPTS = "]: ", "]："
LATE = 60.0
URL = "https://shop.example/order/api/haoteam/getimg"


def at_a_terminal(
    folder: Path, words: Sequence[str], typed: Sequence[str], env: Mapping[str, str] | None = None
) -> str:
    """Its exit code, and what it shows on a terminal of its own where this is typed, each at its prompt."""
    outside, inside = pty.openpty()
    process = subprocess.Popen(
        command(*words), cwd=folder, env=environment(env), stdin=inside, stdout=inside, stderr=inside,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(inside)
    seen, prompts = b"", 0
    end = time.monotonic() + LATE
    with suppress(OSError):  # the other end is closed
        while time.monotonic() < end and select.select([outside], [], [], LATE)[0] and (more := os.read(outside, 4096)):
            seen += more
            while prompts < min(len(typed), sum(seen.count(prompt.encode()) for prompt in PROMPTS)):
                text = typed[prompts]
                os.write(outside, (text if text in {"\3", "\4"} else text + "\n").encode())
                prompts += 1
    os.close(outside)
    return f"{process.wait(LATE)}\n{seen.decode()}".replace("\r\n", "\n")


def test_empty_answers_write_the_example_with_every_default(tmp_path: Path) -> None:
    screen = at_a_terminal(tmp_path, ["init"], [""] * len(QUESTIONS))
    assert screen.startswith("0\nAn empty answer takes what stands in brackets.")
    assert screen.endswith(
        "Wrote config.yaml. Set endpoint.url, then look over a manifest: batchupload check orders.csv\n"
    )
    config = tmp_path / "config.yaml"
    assert config.read_text(encoding="utf-8") == example()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_the_config_means_exactly_what_was_answered(tmp_path: Path) -> None:
    for name in ("照片", "reports"):
        (tmp_path / name).mkdir()
    (tmp_path / "failed.csv").write_text("")
    typed = [URL, "照片", "failed.csv 'exports/*.csv'", "header", "reports", "sent.db", "06:00", "${HOOK}"]
    screen = at_a_terminal(tmp_path, ["init"], typed)
    assert "Look whether all is well: batchupload doctor\n" in screen
    assert screen.endswith("batchupload check\n")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    settings = load(tmp_path / "config.yaml", {}, {}, send=True)
    expected = Settings.model_validate(
        {
            "endpoint": {"url": URL},
            "photos": {"root": tmp_path / "照片", "validate": "header"},
            "manifest": {"paths": [tmp_path / "failed.csv", tmp_path / "exports/*.csv"]},
            "report": {"folder": tmp_path / "reports"},
            "ledger": {"path": tmp_path / "sent.db"},
            "pace": {"deadline": "06:00"},
            "notify": {"urls": ["${HOOK}"]},
        }
    )
    assert settings == expected
    tree = yaml.safe_load(text)
    assert {(section, key) for section in tree for key in tree[section]} == set(keys())
    comments = [line for line in example().splitlines() if line.strip().startswith("# ")]
    assert set(comments[1:]) <= set(text.splitlines())


def test_a_config_elsewhere_means_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "photos").mkdir()
    typed = [URL, "photos", "", "off", "~", "", "", ""]
    screen = at_a_terminal(tmp_path, ["init", "etc/shop 7.yaml"], typed, {"HOME": str(tmp_path / "etc")})
    assert "batchupload doctor --config 'etc/shop 7.yaml'" in screen
    settings = load(tmp_path / "etc/shop 7.yaml", {}, {}, send=True)
    assert settings.photos.root == tmp_path / "photos"
    assert settings.report.folder == tmp_path / "etc"
    assert settings.photos.validate_ == "off"
    assert settings.ledger.path == tmp_path / "etc/batchupload.db"


def test_an_answer_that_can_not_be_taken_is_asked_again_with_what_can(tmp_path: Path) -> None:
    typed = [
        "shop.example", "http://shop.example/x", "maybe", "no", URL,
        "absent", "", "later", "是",
        "'open", "later.csv",
        "fully", "full",
        "",
        "no/such/place.db", "",
        "soon", "4h30m",
        "secret", "json://127.0.0.1/hook",
    ]  # fmt: skip
    screen = at_a_terminal(tmp_path, ["init"], typed)
    for told in (
        "the URL must begin with http:// or https:// and name a host.",
        "ID photos would cross the network readable to anyone on the way.",
        "Answer yes or no.",
        "Then give an https:// address.",
        "absent is no folder, at least not now.",
        "Then give a folder that is there.",
        "the quotes don't pair up",
        "later.csv is not there now: a run that does not find it ends with exit code 2.",
        "Give 'off', 'header' or 'full'.",
        "give a file in a folder that is there",
        "must be of the form scheme://…, or ${NAME}",
        "It will stand in the file as it is, which only its owner can read.",
    ):
        assert told in screen, told
    settings = load(tmp_path / "config.yaml", {}, {}, send=True)
    assert (settings.endpoint.url, settings.endpoint.allow_plaintext) == (URL, False)
    assert settings.photos.root == tmp_path / "later"
    assert settings.pace.deadline == "4h30m"
    assert [url.get_secret_value() for url in settings.notify.urls] == ["json://127.0.0.1/hook"]


def test_it_asks_in_chinese_and_the_config_is_the_same(tmp_path: Path) -> None:
    typed = ["http://shop.example/x", "也许", "是", "absent", "y", "", "fully", "full", *[""] * 4]
    screen = at_a_terminal(tmp_path, ["init", "--lang", "zh"], typed)
    for told in (
        "商城的上传地址，https://… [以后再设]：",
        "请回答是或否",
        "请填 'off', 'header' 或 'full'。",
        "已写出 config.yaml。",
    ):
        assert told in screen, told
    assert not re.search("[a-z]{2,} [a-z]{2,} [a-z]{2,}", screen.replace("batchupload check orders.csv", ""))
    config = tmp_path / "config.yaml"
    assert config.read_text(encoding="utf-8").startswith("# Settings of batchupload, as they were answered")
    settings = load(config, {}, {}, send=True)
    assert settings.endpoint.allow_plaintext
    assert settings.photos.root == tmp_path / "absent"


def test_plain_http_is_taken_where_that_is_agreed_to(tmp_path: Path) -> None:
    at_a_terminal(tmp_path, ["init"], ["http://shop.example/x", "yes", *[""] * 7])
    settings = load(tmp_path / "config.yaml", {}, {}, send=True)
    assert (settings.endpoint.url, settings.endpoint.allow_plaintext) == ("http://shop.example/x", True)


@pytest.mark.parametrize(("key", "code"), [("\3", "130"), ("\4", "2")])
def test_whoever_leaves_it_in_the_middle_leaves_no_file(tmp_path: Path, key: str, code: str) -> None:
    screen = at_a_terminal(tmp_path, ["init"], [URL, key])
    assert screen.startswith(f"{code}\n")
    assert "nothing was written." in screen
    assert "Traceback" not in screen
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("# mine\n")
    screen = at_a_terminal(tmp_path, ["init"], [URL])
    assert screen.startswith("2\n")
    assert "left as it is" in screen
    assert config.read_text() == "# mine\n"
    assert at_a_terminal(tmp_path, ["init", "--force", "--no-input"], []).startswith("0\nWrote config.yaml.")
    assert config.read_text() == example()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert batchupload("init", "--force", cwd=tmp_path, stdin="").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert "can't be written" in batchupload("init", "--force", "no/such/place.yaml", cwd=tmp_path).stderr


@given(st.lists(st.text(st.characters(exclude_characters="\n\r"), max_size=20), min_size=60, max_size=60))
def test_whatever_is_typed_the_config_loads_and_says_it(
    tmp_path_factory: pytest.TempPathFactory, typed: list[str]
) -> None:
    """Questions that are never content get an empty answer in the end."""
    folder = tmp_path_factory.mktemp("typed")
    lines = iter(typed)
    given: Mapping[Any, object] = interview(Stage(lambda _: next(lines, ""), lambda _: None, folder, folder))
    path = folder / "config.yaml"
    path.write_text(example(given), encoding="utf-8")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert load(path, {}, {}, send=False)
    assert {key: tree[key[0]][key[1]] for key in given} == given
