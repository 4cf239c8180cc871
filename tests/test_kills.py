"""Kills at some system calls and moments; `python tests/killing.py` by hand does them all."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "way",
    [
        ["anywhere", "--every", "97", "--first", "41"],
        ["anywhere", "--every", "83", "--first", "29", "--power-loss"],
        ["random", "--kills", "15"],
    ],
)
def test_whatever_is_killed_is_finished_by_the_same_command(way: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), *way]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 15
