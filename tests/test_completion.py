"""Shells complete commands, options and their values."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import batchupload


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell: str, tmp_path: Path) -> None:
    done = batchupload("completion", shell, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_BATCHUPLOAD_COMPLETE={shell}_complete" in done.stdout
    if found := shutil.which(shell):
        (tmp_path / "script").write_text(done.stdout)
        subprocess.run([found, "-n", tmp_path / "script"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("batchupload pu", "plain,purge"),
        ("batchupload purge --forg", "plain,--forget-uploaded"),
        ("batchupload completion z", "plain,zsh"),
    ],
)
def test_what_the_script_asks_for_is_answered(words: str, offered: str, tmp_path: Path) -> None:
    env = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_BATCHUPLOAD_COMPLETE": "bash_complete"}
    done = batchupload(cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout.strip()) == (0, offered)


def test_another_shell_is_refused_with_those_there_are(tmp_path: Path) -> None:
    done = batchupload("completion", "csh", cwd=tmp_path)
    assert done.returncode == 2
    assert "fish" in done.stderr
