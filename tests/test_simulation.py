"""10,000 orders through crashes and reruns in virtual time; `python tests/simulation.py --orders 1000000` by hand."""

import subprocess
import sys
from pathlib import Path


def test_every_invariant_holds_in_ten_worlds_of_a_thousand_orders(tmp_path: Path) -> None:
    script = Path(__file__).with_name("simulation.py")
    command = [sys.executable, str(script), "--orders", "10000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'orders': 10000" in done.stdout
