"""Fuzzing as a command: makes hostile inputs from a seed, holds the program to its promises, keeps what breaks them.

`python tests/fuzz.py --seconds 600` tries all; `--what pictures --seed 7` one kind; `--what pictures --replay FILE` one
input. Every batch runs in a process of its own, with bounds on CPU time and memory that a hang can't escape.
"""

import argparse
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz_oracles import SUBJECTS, Subject, file_of
from fuzz_runs import Broken

CPU_SECONDS = 5.0
"""CPU time that one input may take; of a photo of 50 megapixels decoding takes a second."""
KILLED_AFTER = 12
"""Seconds of CPU time after which an input that does not end is killed."""
STUCK = 60.0
"""Seconds without CPU time and without news after which an input counts as hung."""
MEMORY = 700 << 20
"""Bytes by which one input may raise the peak; README promises 196 MB for photos; a workbook takes more."""
ADDRESS_SPACE = 6 << 30
"""Bytes that a batch may map at all, so that no input can take the machine's."""
BATCH = 100
"""Inputs of one process."""


@dataclass
class Tally:
    """What was tried, what came of it, and what broke."""

    ran: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[Path]] = field(default_factory=dict)
    """Kind of fault → the files of the inputs that showed it."""


def main() -> None:
    """Exit with 1 if an input broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for all kinds together [600]")
    parser.add_argument("--inputs", type=int, help="of each kind, instead of --seconds")
    parser.add_argument("--what", choices=tuple(SUBJECTS), action="append", help="a kind [all]")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-findings"), help="folder for what breaks [fuzz-findings]"
    )
    parser.add_argument("--replay", type=Path, help="hold this one input; needs one --what")
    asked = parser.parse_args()
    whats = asked.what or list(SUBJECTS)
    if asked.replay:
        print(json.dumps(SUBJECTS[whats[0]].hold(asked.replay.read_bytes())))
        return
    print(f"seed {asked.seed}", flush=True)
    tally = Tally()
    for what in whats:
        enough = Enough(asked.inputs, asked.seconds / len(whats))
        fuzz(what, asked.seed, asked.first, enough, asked.keep, tally)
    print(f"inputs {dict(tally.ran)}\noutcomes {dict(sorted(tally.outcomes.items()))}")
    for kind, files in sorted(tally.findings.items()):
        print(f"FOUND {len(files)} × {kind}\n  such as {files[0]}")
    sys.exit(bool(tally.findings))


class Enough:
    """Tells when a kind was tried enough: after so many inputs, or so many seconds."""

    def __init__(self, inputs: int | None, seconds: float) -> None:
        self._inputs = inputs
        self._end = time.monotonic() + seconds

    def after(self, inputs: int) -> bool:
        """Whether `inputs` are enough."""
        return inputs >= self._inputs if self._inputs is not None else time.monotonic() > self._end

    def most(self, inputs: int) -> int:
        """How many more to take at a time."""
        return BATCH if self._inputs is None else min(BATCH, self._inputs - inputs)


def fuzz(what: str, seed: int, first: int, enough: Enough, keep: Path, tally: Tally) -> None:
    """Try one kind of input until it is `enough`."""
    subject, done = SUBJECTS[what], 0
    while not enough.after(done):
        numbers = range(first + done, first + done + enough.most(done))

        def inputs(numbers: Sequence[int] = numbers) -> Iterator[bytes]:
            return (subject.make(Random(f"{seed} {what} {number}"), number) for number in numbers)

        def kept(kind: str, number: int) -> None:
            content = subject.make(Random(f"{seed} {what} {number}"), number)
            note(what, kind, content, f"--what {what} --seed {seed} --first {number} --inputs 1", keep, tally)

        killers = one_by_one(subject, numbers, inputs, kept, tally, what)
        if subject.together:  # without what would only hold up the others
            rows = [number for number in numbers if number not in killers][: subject.rows]
            if rows:
                in_runs(subject, what, list(inputs(rows)), keep, tally)
        done += len(numbers)


def one_by_one(
    subject: Subject,
    numbers: Sequence[int],
    inputs: Callable[[Sequence[int]], Iterator[bytes]],
    kept: Callable[[str, int], None],
    tally: Tally,
    what: str,
) -> set[int]:
    """Hold each input by itself, as fast as that goes; the numbers of those whose process was killed.

    Another process goes on behind those.
    """
    killers = set()
    while numbers:

        def work(say: Callable[[str], None], numbers: Sequence[int] = numbers) -> None:
            for content in inputs(numbers):
                say("begun")
                say(held(subject, content))

        reached = -1
        for word in apart(work):
            if word == "begun":
                reached += 1
            elif word.startswith("broken "):
                kept(word.removeprefix("broken "), numbers[reached])
            elif word.startswith("ended "):
                if word != "ended 0":
                    kept(word, numbers[reached])
                    killers.add(numbers[reached])
                break
            else:
                tally.outcomes[f"{what}: {word}"] += 1
        tally.ran[what] += reached + 1
        numbers = numbers[reached + 1 :] if word != "ended 0" else ()
    return killers


def held(subject: Subject, content: bytes) -> str:
    """The kind of outcome that an input met, or `broken` and what is wrong with that."""
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    signal.setitimer(signal.ITIMER_PROF, KILLED_AFTER)
    try:
        outcome = subject.hold(content)
    except Broken as broken:
        return f"broken {broken}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"broken {type(error).__name__} in {Path(place.filename).name}, {place.name}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if time.process_time() - began > CPU_SECONDS:
        return f"broken over {CPU_SECONDS:g} s of CPU time"
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 > MEMORY:
        return f"broken over {MEMORY >> 20} MB of memory"
    return outcome


def in_runs(subject: Subject, what: str, contents: Sequence[bytes], keep: Path, tally: Tally) -> None:
    """Hold inputs as the rows of one run, beside good ones; if that breaks, find which of them did it."""
    tally.outcomes[f"{what}: runs"] += 1
    fault = in_a_run(subject, contents)
    if not fault:
        return
    kind = f"in a run: {fault}"
    while len(contents) > 1 and f"{what}: {plain(kind)}" not in tally.findings:
        half = len(contents) // 2
        parts = [part for part in (contents[:half], contents[half:]) if in_a_run(subject, part) == fault]
        if not parts:
            break
        contents = parts[0]
    note(what, kind, b"\n--\n".join(contents), "", keep, tally)


def in_a_run(subject: Subject, contents: Sequence[bytes]) -> str:
    """What a run of these inputs breaks; empty if nothing."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))

    def work(say: Callable[[str], None]) -> None:
        try:
            if subject.together:
                subject.together(folder, contents)
        except Broken as broken:
            say(f"broken {broken}")

    try:
        words = [word.removeprefix("broken ") for word in apart(work)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return next((word for word in words if word != "ended 0"), "")


def plain(kind: str) -> str:
    """A fault without its numbers, so that the same one is counted once."""
    return re.sub(r"\d[\d,:.]*", "N", kind)


def note(what: str, kind: str, content: bytes, again: str, keep: Path, tally: Tally) -> None:
    """Keep an input that broke something, and say so at the first of its kind."""
    keep.mkdir(parents=True, exist_ok=True)
    files = tally.findings.setdefault(f"{what}: {plain(kind)}", [])
    path = keep / f"{what}-{len(tally.findings)}-{len(files)}"
    if len(files) < 5:
        path.write_bytes(content)
    files.append(path)
    if len(files) == 1:
        print(f"FOUND {what}: {kind}\n  {path} ({len(content):,} bytes) {again}", flush=True)


def apart(work: Callable[[Callable[[str], None]], None], seconds: float = 0) -> Iterator[str]:
    """Do `work` in a child of this process, and yield what it says; last, `ended` and how: 0, or what killed it.

    The child has `seconds` of CPU time, if not 0.
    """
    reading, writing = os.pipe()

    def say(word: str) -> None:
        os.write(writing, word.encode("utf-8", "backslashreplace").replace(b"\n", b" ") + b"\n")

    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
            signal.setitimer(signal.ITIMER_PROF, seconds)
            work(say)
            status = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    rest, stuck = b"", False
    with open(reading, "rb", buffering=0) as pipe:
        while True:
            before = cpu_ticks(child)
            if not select.select([pipe], [], [], STUCK)[0]:
                if cpu_ticks(child) != before:  # a slow machine is no hang
                    continue
                os.kill(child, signal.SIGKILL)
                stuck = True
            more = pipe.read(65_536)
            if not more:
                break
            *words, rest = (rest + more).split(b"\n")
            yield from (word.decode() for word in words)
    status = os.waitpid(child, 0)[1]
    file_of(child).unlink(missing_ok=True)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if stuck:
        yield "ended it hangs"
    elif killed == signal.SIGPROF:
        yield "ended killed: no end in CPU time"
    else:
        yield f"ended {signal.Signals(killed).name if killed else os.waitstatus_to_exitcode(status)}"


def cpu_ticks(process: int) -> str:
    """CPU time that a process had, in a form that can be compared; empty if this system does not tell."""
    try:
        return " ".join(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13])
    except OSError:
        return ""


if __name__ == "__main__":
    main()
