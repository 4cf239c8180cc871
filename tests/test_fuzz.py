"""Fuzzing in short: the same hostile inputs each time; `python tests/fuzz.py --seconds 600` looks for new ones."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
INPUTS = {
    "bytes": 4000,
    "pictures": 1000,
    "manifests": 300,
    "rows": 300,
    "replies": 1000,
    "config": 200,
    "environment": 300,
    "addresses": 1000,
    "patterns": 2000,
}
"""How many of each kind are tried."""


@pytest.mark.parametrize("what", INPUTS)
def test_hostile_input_meets_a_listed_outcome_in_bounded_time_and_memory(what: str, tmp_path: Path) -> None:
    command = [sys.executable, "fuzz.py", "--what", what, "--inputs", str(INPUTS[what]), "--seed", "1"]
    done = subprocess.run(
        [*command, "--keep", str(tmp_path / "found")],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"inputs {{'{what}': {INPUTS[what]}}}" in done.stdout


FAULTS = """
import os, signal, sys, time
import fuzz
from fuzz_oracles import SUBJECTS, Subject

def broken(content):
    match content:
        case b"0":
            raise RecursionError
        case b"1":
            while True:
                pass
        case b"2":
            b"x" * (800 << 20)
        case b"3":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"4":
            time.sleep(600)
        case b"5":
            bytearray(1 << 40)
    return "good"

fuzz.KILLED_AFTER, fuzz.STUCK = 3, 5
SUBJECTS["broken"] = Subject(lambda random, number: b"%d" % number, broken)
sys.argv = ["fuzz.py", "--what", "broken", "--inputs", "8", "--seed", "1", "--keep", sys.argv[1]]
fuzz.main()
"""


def test_a_fault_of_any_kind_is_found_and_the_inputs_behind_it_are_tried(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, str(tmp_path)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = re.findall(r"FOUND 1 × broken: (.*)", done.stdout)
    kinds = ("RecursionError", "no end in CPU time", "MB of memory", "SIGSEGV", "it hangs", "MemoryError")
    assert len(found) == len(kinds)
    assert all(any(kind in one for one in found) for kind in kinds), found
    assert "inputs {'broken': 8}" in done.stdout
    assert "'broken: good': 2" in done.stdout
    assert len(list(tmp_path.iterdir())) == 6
