"""Nights of the whole program in virtual time; `python tests/nights.py` plays sixty of 2,000 rows by hand."""

import subprocess
import sys
from pathlib import Path


def test_no_night_is_blocked_or_counted_wrongly_in_nine_worlds_of_nights(tmp_path: Path) -> None:
    script = Path(__file__).with_name("nights.py")
    command = [sys.executable, str(script), "--short"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 worlds of 120 rows and 24 nights" in done.stdout
