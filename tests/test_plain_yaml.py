"""YAML of a config: read as YAML 1.2, in bounded time and memory, each refusal with line and remedy."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import batchupload
from hypothesis import given
from hypothesis import strategies as st

from batchupload.config import ConfigError, example, load
from batchupload.plain_yaml import YamlError, read, write
from batchupload.settings import Settings


def settings_of(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, environment, {}, send=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6:00", "6:00"), ("06:00", "06:00"), ("23:59:59", "23:59:59"), ("1:30.5", "1:30.5"),
        ("010000", 10000), ("010", 10), ("0o17", 15), ("0x1F", 31), ("+12", 12), ("-0", 0), ("09", 9),
        ("1_000", "1_000"), ("0b11", "0b11"), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-.inf", float("-inf")),
        ("2001-01-01", "2001-01-01"), ("2001-13-45", "2001-13-45"), ("2001-12-14t21:59:43Z", "2001-12-14t21:59:43Z"),
        ("yes", "yes"), ("off", "off"), ("y", "y"), ("NO", "NO"), ("true", True), ("FALSE", False),
        ("~", None), ("null", None), ("", None), ("=", "="), ("'010'", "010"), ('"\\ud800"', "\ufffd"),
        ('"\\ud83d\\ude00"', "😀"), ("!!str 010", "010"),
    ],
)  # fmt: skip
def test_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert read(f"key: {text}")[0] == {"key": value}
    assert type(read(f"key: {text}")[0]["key"]) is type(value)


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "YES", "y"])
def test_words_for_true_and_false_still_switch(tmp_path: Path, word: str) -> None:
    other = {"true": "false", "True": "False", "yes": "no", "on": "off", "YES": "NO", "y": "n"}[word]
    assert settings_of(tmp_path, f"report: {{page: {word}}}").report.page is True
    assert settings_of(tmp_path, f"report: {{page: {other}}}").report.page is False
    assert settings_of(tmp_path, "", BATCHUPLOAD_REPORT_PAGE=other).report.page is False


def test_times_limits_and_words_mean_what_they_say(tmp_path: Path) -> None:
    pace = settings_of(tmp_path, "pace: {deadline: 6:00, rate: {8:00: 5, 23:00: off}, bandwidth: off}").pace
    assert pace.deadline == "6:00"
    assert pace.rate is not None
    assert pace.rate.entries == ((480, 5.0), (1380, None))
    assert pace.bandwidth is None
    assert settings_of(tmp_path, "pace: {rate: no}\nphotos: {validate: off}").photos.validate_ == "off"
    assert settings_of(tmp_path, "metrics: {port: 010000}").metrics.port == 10000
    assert settings_of(tmp_path, "", BATCHUPLOAD_PACE_DEADLINE="6:00").pace.deadline == "6:00"


def doubling(levels: int) -> str:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("pace: &a\n  rate: *a", 2, "stands within itself"),
        ("a: &a\n  - [*a]", 2, "stands within itself"),
        ("a: 1\nb: &b {<<: *b}", 2, "stands within itself"),
        (doubling(60), 13, "more than 20,000 values"),
        ("a: &a " + "x" * 10_000 + "\nb: [" + "*a, " * 200 + "]", 2, "1,000,000 characters"),
        ("a: &a {b: 1}\nb: {<<: [" + "*a, " * 9000 + "]}", 2, "more than 20,000 values"),
        ("[" * 100_000, 1, "nested deeper than 32"),
        ("a:\n" + "- " * 100_000, 2, "nested deeper than 32"),
        ("{a: " * 50_000, 1, "nested deeper than 32"),
        ("a: " + "9" * 5000, 1, "no whole number"),
        ('a: 1\nb: "\\U00110000"', 2, "range(0x110000)"),
        ("a: !!timestamp 2001-01-01", 1, "could not determine a constructor"),
        ("a: !!python/object/apply:os.system [ls]", 1, "could not determine a constructor"),
        ("a: \x1b[31m", 1, r"\x1b"),
        ("a: 1\na: 2", 2, "stands twice"),
        ("? [a]\n: b", 1, "unhashable"),
        ("a: b: c", 1, "mapping values"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("x" * 300_000, 0, "over 256 KiB"),
        ("#\n" * 150_000, 0, "over 256 KiB"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_a_config_that_can_not_be_read_is_refused_at_once_with_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "config.yaml", {}, {}, send=False)
    assert time.process_time() - began < 30
    assert words in str(refused.value)
    assert not line or f"config.yaml, line {line}" in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("text", ["pace: &a {rate: *a}", doubling(40)])
def test_an_alias_without_end_is_exit_2_for_the_command(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    done = batchupload("history", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("batchupload: config.yaml, line ")


def test_anchors_and_merges_that_end_are_still_taken(tmp_path: Path) -> None:
    text = (
        "profiles:\n  one: &one\n    pace: &pace {canary: 3}\n  two:\n    <<: *one\n    pace: {<<: *pace, canary: 5}\n"
    )
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert load(file, {}, {}, send=False, profile="one").pace.canary == 3
    assert load(file, {}, {}, send=False, profile="two").pace.canary == 5


def test_the_example_is_read_back_as_the_defaults(tmp_path: Path) -> None:
    tree = read(example())[0]
    assert tree["pace"]["deadline"] is None
    assert yaml.safe_load(example()) == tree
    assert settings_of(tmp_path, example()).pace == Settings().pace


@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_what_is_written_is_read_back_by_both_versions(value: Any) -> None:
    text = f"key: {write(value)}"
    try:
        assert read(text)[0] == {"key": value}
    except YamlError as error:  # hypothesis likes to nest deep
        assert "nested" in str(error)  # noqa: PT017
    assert yaml.safe_load(text) == {"key": value}


@pytest.mark.parametrize(
    "text", ["1e3", "0o17", "010", "08", "6:00", "off", "yes", "2001-01-01", "~", "1.5e3", "=", "<<"]
)
def test_text_that_looks_like_something_else_is_written_in_quotes(text: str) -> None:
    assert read(f"key: {write(text)}")[0] == yaml.safe_load(f"key: {write(text)}") == {"key": text}
