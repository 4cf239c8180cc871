"""What is in deploy/ can be used as it is: it parses, its commands exist, its times fit together."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from test_readme import README, ROOT

from batchupload.cli import cli
from batchupload.config import load, read_yaml
from batchupload.deadline import _DURATION
from batchupload.settings import TimeoutSettings

DEPLOY = ROOT / "deploy"
SYSTEMD = DEPLOY / "systemd"
PROGRAM = "/opt/batchupload/bin/batchupload"
UNITS = sorted(path.name for path in SYSTEMD.glob("*.*") if path.suffix in {".service", ".timer"})
SERVICES = [name for name in UNITS if name.endswith(".service") and "@" not in name]
DRAIN = TimeoutSettings().drain
SYNC_SECONDS = 60.0
"""What a slow disk may take for the last sync of ledger and report each."""


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """Section → key → values, as systemd reads them: a key may stand more than once."""
    found: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = found.setdefault(header[1], {})
        elif line and not line.startswith("#"):
            key, separator, value = line.partition("=")
            assert separator, line
            section.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    """Of a time span such as `4h30m` or `150`."""
    found = _DURATION.fullmatch(text if text[-1].isalpha() else f"{text}s")
    assert found, text
    hours, minutes, rest = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + rest


def documents() -> list[dict[str, Any]]:
    return [
        document
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def jobs() -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == "CronJob"]


def pod(job: dict[str, Any]) -> dict[str, Any]:
    found = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert isinstance(found, dict)
    return found


def cron_lines() -> list[str]:
    lines = (DEPLOY / "cron/batchupload").read_text().splitlines()
    return [line for line in lines if line[:1].isdigit() or line.startswith("*")]


def image_command() -> list[str]:
    (command,) = re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    words: list[str] = json.loads(command)
    return words


def commands() -> list[list[str]]:
    """The words after `batchupload` wherever it is started."""
    started = [shlex.split(unit(name)["Service"]["ExecStart"][0]) for name in SERVICES]
    started += [shlex.split(line)[6:] for line in cron_lines()]
    assert {words[0] for words in started} == {PROGRAM}
    in_images = [container["args"] for job in jobs() for container in pod(job)["containers"]]
    return [*(words[1:] for words in started), image_command(), *in_images]


def readme_commands() -> list[str]:
    """The words after `batchupload` in the README's blocks of commands."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    return re.findall(r"^(?:\$as|batchupload) ([^#\n>]+)", blocks, re.MULTILINE)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def parse(words: list[str]) -> None:
    """Raise where the program has no such command or option."""
    cli.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_option_that_is_started_exists(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_that_the_readme_gives_exists(line: str) -> None:
    parse(shlex.split(line))


def test_an_option_that_is_not_there_would_be_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(["run", "--dead-line", "1h"])


@pytest.mark.parametrize("name", UNITS)
def test_units_are_what_systemd_takes(name: str, tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd here")
    for path in SYSTEMD.glob("*.*"):  # the programs that the units name are not installed on every machine
        text = re.sub(r"/opt/batchupload/bin/[\w-]+", sys.executable, path.read_text())
        (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / name], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    told = [line for line in done.stderr.splitlines() if "batchupload" in line]  # and not of the machine's own units
    assert (done.returncode, told) == (0, [])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_closed_to_what_it_does_not_need(name: str) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd here")
    done = subprocess.run(
        [analyze, "security", "--offline=yes", "--no-pager", "--threshold=15", SYSTEMD / name],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("a systemd without offline checks")
    assert done.returncode == 0, done.stdout[-200:]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_time_to_drain_and_tells_of_its_failure(name: str) -> None:
    service = unit(name)["Service"]
    assert seconds(service["TimeoutStopSec"][0]) >= DRAIN + 2 * SYNC_SECONDS
    assert service["KillSignal"] == ["SIGTERM"]
    assert service["UMask"] == ["0077"]
    assert unit(name)["Unit"]["OnFailure"] == ["batchupload-failed@%n.service"]
    assert (SYSTEMD / "batchupload-failed@.service").exists()


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".timer")])
def test_a_timer_has_its_service(name: str) -> None:
    assert name.replace(".timer", ".service") in SERVICES
    assert unit(name)["Install"] == {"WantedBy": ["timers.target"]}


def test_a_run_ends_by_its_own_deadline_and_not_by_that_of_what_started_it() -> None:
    service = unit("batchupload.service")["Service"]
    assert seconds(service["TimeoutStartSec"][0]) >= seconds(option(shlex.split(service["ExecStart"][0]), "--deadline"))
    (job,) = [job for job in jobs() if job["metadata"]["name"] == "batchupload"]
    (container,) = pod(job)["containers"]
    deadline = seconds(option(container["args"], "--deadline"))
    assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] >= deadline + DRAIN + 600


def test_a_pod_may_do_little_and_has_time_to_drain() -> None:
    assert jobs()
    for job in jobs():
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        spec = pod(job)
        assert spec["terminationGracePeriodSeconds"] >= DRAIN + 2 * SYNC_SECONDS
        assert spec["restartPolicy"] == "Never"
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False  # its variables would be taken for settings
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= {
                volume["name"] for volume in spec["volumes"]
            }


def test_the_config_in_the_cluster_is_one_that_loads(tmp_path: Path) -> None:
    (config,) = [document["data"]["config.yaml"] for document in documents() if document["kind"] == "ConfigMap"]
    (tmp_path / "config.yaml").write_text(config)
    assert read_yaml(tmp_path / "config.yaml")
    address = {"BATCHUPLOAD_ENDPOINT_URL": "https://shop.example/order/api/haoteam/getimg"}
    settings = load(tmp_path / "config.yaml", address, {}, send=True)
    mounts = {mount["mountPath"] for mount in pod(jobs()[0])["containers"][0]["volumeMounts"]}
    assert settings.report.folder
    assert {str(settings.ledger.path.parent), str(settings.report.folder), str(settings.photos.root)} <= mounts


def test_the_image_is_built_of_what_is_there_and_runs_as_nobody_special() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {line.split()[0] for line in lines} <= known
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for words in (line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line):
        for word in words:
            assert (ROOT / word).exists()
            assert word in let_in
    user = next(line.split()[1] for line in lines if line.startswith("USER"))
    assert not user.startswith(("0", "root"))
    assert json.loads(next(line for line in lines if line.startswith("ENTRYPOINT"))[11:]) == ["batchupload"]


def test_each_file_is_named_in_the_readme_and_each_named_one_is_there() -> None:
    named = set(re.findall(r"deploy/[\w/@*-]+(?:\.\w+)?", README))
    there = {path for path in DEPLOY.rglob("*") if path.is_file()}
    assert there == {path for name in named for path in ROOT.glob(name)}
    assert [name for name in named if not list(ROOT.glob(name))] == []


@pytest.mark.parametrize(("status", "words"), [("1", "need a person"), ("5", "see the disk"), ("", "unknown")])
def test_whoever_is_to_be_told_gets_a_mail_that_says_what_is_the_matter(
    tmp_path: Path, status: str, words: str
) -> None:
    for name, does in {"sendmail": "cat > mail", "logger": "true", "journalctl": 'echo "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    invocation = {"MONITOR_EXIT_STATUS": status, "MONITOR_INVOCATION_ID": "0123abcd"} if status else {}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TELL": "root", **invocation}
    done = subprocess.run(
        ["/bin/sh", SYSTEMD / "batchupload-tell", "batchupload.service"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, _, body = (tmp_path / "mail").read_text().partition("\n\n")
    assert head.startswith("To: root\nSubject: batchupload.service on ")
    assert words in head
    assert ("0123abcd" if status else "-u batchupload.service") in body


def test_as_process_1_of_a_container_it_answers_sigterm_before_it_sends() -> None:
    if not (unshare := shutil.which("unshare")):
        pytest.skip("no unshare here")
    words = [unshare, "--map-root-user", "--pid", "--fork", "--kill-child", sys.executable]
    if subprocess.run([*words, "-c", ""], capture_output=True).returncode:
        pytest.skip("no namespaces for this user")
    program = (
        "import os, signal, sys, time, click\n"
        "from batchupload import cli\n"
        "@cli.cli.command()\n"
        "def wait():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
        "sys.argv = ['batchupload', 'wait']\n"
        "cli.main()\n"
    )
    assert subprocess.run([*words, "-c", program], timeout=20).returncode == 143
