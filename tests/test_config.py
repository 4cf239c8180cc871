"""Settings: where they come from, which is stronger, and every mistake named with its place and remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchupload.config import ConfigError, environment_name, example, keys, load
from batchupload.settings import Settings

ROOT = Path(__file__).parent.parent
SAFE = "endpoint:\n  url: https://shop.example/upload\n"


def config(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str, environment: dict[str, str] | None = None, send: bool = True) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config(folder, text), environment or {}, {}, send=send)
    return str(caught.value)


def test_the_example_is_generated_from_the_code() -> None:
    assert (ROOT / "config.example.yaml").read_text(encoding="utf-8") == example()


def test_the_example_holds_every_key_with_its_default(tmp_path: Path) -> None:
    loaded = load(config(tmp_path, example()), {}, {}, send=False)
    assert loaded.model_dump(exclude={"endpoint", "ledger"}) == Settings().model_dump(exclude={"endpoint", "ledger"})
    assert loaded.ledger.path == tmp_path / Settings().ledger.path
    tree = yaml.safe_load(example())
    assert {(section, key) for section in tree for key in tree[section]} == set(keys())


def test_command_line_is_stronger_than_environment_than_file_than_default(tmp_path: Path) -> None:
    path = config(tmp_path, SAFE + "pace: {concurrency: 3}\nphotos: {max_bytes: 5}\nretry: {attempts: 2}\n")
    environment = {"BATCHUPLOAD_PACE_CONCURRENCY": "4", "BATCHUPLOAD_PHOTOS_MAX_BYTES": "6", "HOME": "/"}
    settings = load(path, environment, {"pace.concurrency": ("--concurrency", 5)}, send=True)
    assert settings.pace.concurrency == 5
    assert settings.photos.max_bytes == 6
    assert settings.retry.attempts == 2
    assert settings.timeouts.connect == 10.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pace:\n  concurency: 3\n", "line 4: pace.concurency: no such setting. Did you mean concurrency?"),
        ("paces: {}\n", "line 3: paces: no such setting. Did you mean pace?"),
        ("pace:\n  concurrency: many\n", "line 4: pace.concurrency: give a number from 1 to 256, or auto, not 'many'"),
        ("pace:\n  concurrency: 0\n", "line 4: pace.concurrency: give a number from 1 to 256, or auto, not 0"),
        ("pace: 3\n", "line 3: pace: "),
        ("retry: {attempts: true}\n", "line 3: retry.attempts: must be a number, not true or false"),
        ("metrics: {port: false}\n", "line 3: metrics.port: must be a number, not true or false"),
        ('ledger: {path: "a\\0b"}\n', "line 3: ledger.path: no NUL character can stand here"),
        ('report: {folder: "a\\0b"}\n', "line 3: report.folder: no NUL character can stand here"),
        ('metrics: {textfile: "a\\0b.prom"}\n', "line 3: metrics.textfile: no NUL character can stand here"),
        ('photos: {root: "a\\0b"}\n', "line 3: photos.root: no NUL character can stand here"),
        ("pace:\n  concurrency: 1\n  concurrency: 2\n", "line 5: pace.concurrency stands twice"),
        ("photos:\n  validate: fully\n", "line 4: photos.validate: must be 'off', 'header' or 'full', not 'fully'"),
        ("manifest:\n  encoding: utf-9\n", "line 4: manifest.encoding: no such encoding"),
        ("manifest:\n  order_id_pattern: '('\n", "line 4: manifest.order_id_pattern: not a regular expression"),
        (
            "manifest:\n  order_id_pattern: '(?!X)HT.*'\n",
            "line 4: manifest.order_id_pattern: this regular expression can't be matched in bounded time",
        ),
        ("  replies: [{message: '(a)\\1', then: retry}]\n", "endpoint.replies.0.message: this regular expression"),
        ("manifest: [\n", "check indentation"),
        ("- a\n", "check indentation"),
    ],
)
def test_each_mistake_is_named_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    message = refusal(tmp_path, SAFE + text)
    assert str(tmp_path / "config.yaml") in message
    assert told.lower() in message.lower()


@pytest.mark.parametrize("given", ["[1]", "x", "false", "null"])
def test_a_section_that_is_none_is_named_also_beside_a_variable_for_it(tmp_path: Path, given: str) -> None:
    told = refusal(tmp_path, SAFE + f"retry: {given}\n", {"BATCHUPLOAD_RETRY_BASE": "2"})
    assert "line 3: retry: give `key: value` lines" in told


def test_a_message_stays_readable_whatever_is_in_the_settings(tmp_path: Path) -> None:
    long = "x" * 100_000
    message = refusal(tmp_path, SAFE, {"BATCHUPLOAD_PHOTOS_MAX_BYTES": long, "BATCHUPLOAD_PACE_RATE": long})
    assert len(message) < 3000
    assert all("BATCHUPLOAD_" in line and line.endswith("xxx…") for line in message.splitlines())
    message = refusal(tmp_path, SAFE, {"BATCHUPLOAD_PHOTOS_REPAIR": "[" + "a, " * 9000 + "]"})
    assert message.count("photos.repair") == 50
    assert message.endswith("and 8,950 more mistakes.")


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, SAFE + "pace: {concurrency: 0}\nretry: {attempts: 0}\n", {"BATCHUPLOAD_X": "1"})
    assert "pace.concurrency" in message
    assert "retry.attempts" in message
    assert "BATCHUPLOAD_X in the environment: no such setting" in message


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("shop.example/upload", "must begin with http:// or https://"),
        ("ftp://shop.example/", "must begin with http:// or https://"),
        ("https://user:secret@shop.example/", "no user name"),
        ("https://shop.example:99999/", "not a URL"),
        ("https:///upload", "name a host"),
        ("https://shop..example/upload", "not a URL"),
        (f"https://{'x' * 64}.example/", "not a URL"),
        ("https://\ufffd/upload", "not a URL"),
        ("https://xn--/upload", "not a URL"),
        ("http://shop.example/upload", "plain http: ID photos would cross the network unencrypted"),
    ],
)
def test_an_address_that_can_not_be_meant_is_refused(tmp_path: Path, url: str, told: str) -> None:
    message = refusal(tmp_path, f"endpoint:\n  url: {url}\n")
    assert told in message
    assert "line 2: endpoint.url" in message


def test_plain_http_is_for_this_machine_or_by_consent(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]:80/x", "https://shop.example/x"):
        assert load(config(tmp_path, f"endpoint: {{url: '{url}'}}"), {}, {}, send=True).endpoint.url == url
    text = "endpoint: {url: 'http://shop.example/x', allow_plaintext: true}"
    assert load(config(tmp_path, text), {}, {}, send=True).endpoint.url == "http://shop.example/x"
    for trick in ("http://127.0.0.1.evil.example/", "http://localhost.evil.example/", "http://0x7f.1/"):
        refusal(tmp_path, f"endpoint: {{url: '{trick}'}}")


def test_the_default_endpoint_needs_consent_before_a_send_but_not_for_a_check() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {}, send=True)
    assert str(caught.value) == (
        "no endpoint.url is set: put the shop's address into the config (`batchupload init` writes one), "
        "or give --endpoint."
    )
    assert load(None, {}, {}, send=False)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("endpont: {url: 'https://shop.example/x'}\n", "line 1: endpont: no such setting. Did you mean endpoint?"),
        ("pace: {canary: -1}\n", "line 1: pace.canary: must be from 0 to 10000, not -1."),
    ],
)
def test_that_no_address_is_set_is_told_after_what_may_be_its_cause(tmp_path: Path, text: str, first: str) -> None:
    one, two = refusal(tmp_path, text).splitlines()
    assert first in one
    assert two.startswith("no endpoint.url is set: ")


def test_an_address_that_was_given_is_named_wherever_it_was_given(tmp_path: Path) -> None:
    message = refusal(tmp_path, "", {"BATCHUPLOAD_ENDPOINT_URL": "http://shop.example/x"})
    assert message.startswith(
        "BATCHUPLOAD_ENDPOINT_URL in the environment: endpoint.url: http://shop.example/x is plain"
    )
    with pytest.raises(ConfigError, match=r"^--endpoint: endpoint\.url: http://shop\.example/x is plain"):
        load(None, {}, {"endpoint.url": ("--endpoint", "http://shop.example/x")}, send=True)


def test_two_fields_of_one_name_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, SAFE + "  fields:\n    face: back\n")
    assert "line 3: endpoint.fields: two fields have the name 'back'; each needs its own." in message
    swapped = load(config(tmp_path, SAFE + "  fields: {face: back, back: face}\n"), {}, {}, send=True)
    assert (swapped.endpoint.fields.face, swapped.endpoint.fields.back) == ("back", "face")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "pace: {max_failures: lots}",
            "pace.max_failures: give a number such as 100, or a share below 100% such as 5%, not 'lots'.",
        ),
        (
            "pace: {max_failures: 0.05}",
            "pace.max_failures: give a number such as 100, or a share below 100% such as 5%, not 0.05.",
        ),
        ("manifest: {paths: a.csv}", "manifest.paths: give a list, such as [a.csv, b.csv], not 'a.csv'."),
        ("manifest: {paths: [5]}", "manifest.paths.0: give a path, not 5."),
        ("manifest: {columns: {face: 5}}", "manifest.columns.face: give a list, such as [人像面], not 5."),
        (
            "manifest: {columns: {face: [5]}}",
            "manifest.columns.face.0: give text, in quotes where it looks like a numb",
        ),
        ("manifest: {delimiter: x}", "manifest.delimiter: must be 'auto', ',', ';' or '\\t', not 'x'."),
        ("scan: {patterns: 5}", "scan.patterns: give a list, such as ['{order_id}/{field}.*'], not 5."),
        ("scan: {patterns: []}", "scan.patterns: give at least one pattern, such as '{order_id}/{field}.*'."),
        (
            "scan: {patterns: '{order_id}/{side}.*'}",
            "scan.patterns: {order_id}/{side}.*: {side} is neither {order_id} nor {field}; nothing else",
        ),
        ("photos: {root: 5}", "photos.root: give a path, not 5."),
        ("photos: {max_bytes: big}", "photos.max_bytes: must be a whole number from 1 to 1073741824, not 'big'."),
        ("photos: {allow_outside_root: maybe}", "photos.allow_outside_root: give true or false, not 'maybe'."),
        ("photos: {allow_outside_root: []}", "photos.allow_outside_root: give true or false, not []."),
        ("pace: 3", "pace: give `key: value` lines, not 3."),
        ("pace: {1: 2}", "pace.1: no such setting. Allowed here: concurrency, lowest, "),
        ("retry: {attempts: 101}", "retry.attempts: must be from 1 to 100, not 101."),
        ("retry: {attempts: 1.5}", "retry.attempts: must be a whole number from 1 to 100, not 1.5."),
        ("retry: {attempts: .nan}", "retry.attempts: must be a whole number from 1 to 100, not nan."),
        ("retry: {budget: .nan}", "retry.budget: must be from 0 to 10, not nan."),
        ("retry: {budget: .inf}", "retry.budget: must be from 0 to 10, not inf."),
        ("retry: {budget: much}", "retry.budget: must be a number from 0 to 10, not 'much'."),
        ("retry: {base: 0}", "retry.base: must be above 0 and at most 3600, not 0."),
        ("retry: {base: .nan}", "retry.base: must be above 0 and at most 3600, not nan."),
        ("timeouts: {slowest_link: 0}", "timeouts.slowest_link: must be at least 1, not 0."),
        ("endpoint: {url: }", "endpoint.url: give text, not None."),
        ("endpoint: {replies: 5}", "endpoint.replies: give a list, such as [{code: 400, then: retry}], not 5."),
        ("endpoint: {replies: [5]}", "endpoint.replies.0: give `key: value` lines, not 5."),
        ("endpoint: {replies: [{code: 400}]}", "endpoint.replies.0.then: is missing."),
        ("endpoint: {replies: [{code: x, then: retry}]}", "endpoint.replies.0.code: must be a whole number, not 'x'."),
        (
            "endpoint: {replies: [{mesage: x, then: retry}]}",
            "endpoint.replies.0.mesage: no such setting. Did you mean message? Allowed here: code, message, then.",
        ),
        (
            "endpoint: {fields: {costum: x}}",
            "endpoint.fields.costum: no such setting. Did you mean custom? Allowed here: order_id, face, back, hand, ",
        ),
    ],
)
def test_each_mistake_is_told_in_plain_words(tmp_path: Path, text: str, told: str) -> None:
    message = refusal(tmp_path, text, send=False)
    assert f"config.yaml, line 1: {told}" in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [("NOSUCH", ""), ("PACE_X", ""), ("PACE_CONCURENCY", "PACE_CONCURRENCY"), ("ENDPOINT", "ENDPOINT_URL")],
)
def test_a_variable_is_suggested_only_when_it_is_near(tmp_path: Path, name: str, meant: str) -> None:
    message = refusal(tmp_path, SAFE, {f"BATCHUPLOAD_{name}": "1"})
    suggestion = f" Did you mean BATCHUPLOAD_{meant}?" if meant else ""
    assert message == f"BATCHUPLOAD_{name} in the environment: no such setting.{suggestion}"


def test_relative_paths_of_the_file_count_from_its_folder(tmp_path: Path) -> None:
    text = SAFE + "photos: {root: pictures}\nreport: {folder: out}\nmanifest: {paths: [a.csv, /b.csv]}\n"
    settings = load(config(tmp_path, text), {}, {}, send=True)
    assert settings.photos.root == tmp_path / "pictures"
    assert settings.report.folder == tmp_path / "out"
    assert settings.manifest.paths == (tmp_path / "a.csv", Path("/b.csv"))


def test_yaml_words_for_false_mean_off_where_off_is_a_level(tmp_path: Path) -> None:
    assert load(config(tmp_path, SAFE + "photos: {validate: off}"), {}, {}, send=True).photos.validate_ == "off"


@pytest.mark.parametrize(
    "rule", ["{then: retry}", "{code: 400}", "{code: 400, then: maybe}", "{message: '(', then: retry}"]
)
def test_a_rule_of_the_reply_table_must_make_sense(tmp_path: Path, rule: str) -> None:
    assert "endpoint.replies.0" in refusal(tmp_path, SAFE + f"  replies: [{rule}]\n")


def test_a_missing_or_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batchupload init"):
        load(tmp_path / "gone.yaml", {}, {}, send=True)
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path, {}, {}, send=True)


def test_every_setting_has_its_variable() -> None:
    assert environment_name(("photos", "validate")) == "BATCHUPLOAD_PHOTOS_VALIDATE"
    names = [environment_name(key) for key in keys()]
    assert len(set(names)) == len(names)


YAML_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = list(Settings.model_fields)
NAMES = [str(name) for _, name in keys()]


@given(st.dictionaries(st.sampled_from(SECTIONS), YAML_LIKE | st.dictionaries(st.sampled_from(NAMES), YAML_LIKE)))
def test_any_settings_load_or_are_refused(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    path = config(tmp_path_factory.mktemp("config"), yaml.safe_dump(tree, allow_unicode=True))
    try:
        load(path, {}, {}, send=False)
    except ConfigError as error:
        message = str(error)
    else:
        message = ""
    assert "Traceback" not in message
