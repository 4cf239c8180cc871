"""Change the deciding modules at random, and see whether a test notices: `python tests/mutants.py --sample 200`.

mutmut makes the mutants and runs, for each, the tests that pass through the changed function. A mutant that no test
kills is printed as a diff: write the test that kills it, or see that nobody can observe what it changes, and put it
into equivalent_mutants.txt. Mutants of words for people are left out. Which modules and tests take part is in
pyproject.toml.
"""

import argparse
import ast
import difflib
import json
import random
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

MADE = Path("mutants")
"""Where mutmut puts its changed copy of the project."""
UNNOTICED = {0: "survived", 5: "no test passes through it", 33: "no test passes through it"}
"""mutmut's exit codes of a mutant that no test killed; the others mean that one failed, crashed or ran out of time."""
NOT_TRIED = (None, 2, 34)
"""mutmut's exit codes of a mutant that was not tried, or not to the end."""
SEVERAL_WORDS = re.compile(r"[^\W\d_].* | .*[^\W\d_]", re.DOTALL)
"""What is separated by spaces, and has a letter."""
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
"""Mutants that change nothing anybody can observe: `module.function: the changed line  # why`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try a sample of the mutants, print those that were not noticed; 1 if fewer than `--wanted` percent were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="mutants to try; 0 for all [200]")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same mutants of the same code [1]")
    parser.add_argument("--module", action="append", help="one module, such as verdict; may be given again")
    parser.add_argument("--wanted", type=float, default=95.0, help="percent that a test must notice [95]")
    parser.add_argument("--at-once", type=int, default=2, help="mutants that are tried at a time [2]")
    options = parser.parse_args(arguments)
    _mutmut("none.of.them", at_once=1)  # makes the mutants, and finds out which test passes through what
    names = [name for name in sorted(results()) if not options.module or name.split(".")[1] in options.module]
    random.Random(options.seed).shuffle(names)
    equivalent = {line.split("  # ")[0] for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()}
    wanted = (name for name in names if not _is_about_words(name) and _changed_line(name) not in equivalent)
    chosen = list(islice(wanted, options.sample or None))
    if not chosen:
        parser.error("no such mutants")
    _mutmut(*chosen, at_once=options.at_once)
    codes = {name: code for name, code in results().items() if name in set(chosen)}
    if not_tried := [name for name, code in codes.items() if code in NOT_TRIED]:
        print(f"{len(not_tried)} were not tried: see whether the tests pass without any change (`mutmut run`)")
        return 2
    unnoticed = {name: UNNOTICED[code] for name, code in codes.items() if code in UNNOTICED}
    for name, why in sorted(unnoticed.items()):
        print(f"\n{name}: {why}\n" + "\n".join(change(name)))
    noticed = 100 * (1 - len(unnoticed) / len(chosen))
    print(f"\n{len(chosen) - len(unnoticed)} of {len(chosen)} mutants were noticed: {noticed:.1f} %")
    return int(noticed < options.wanted)


def results() -> Mapping[str, int | None]:
    """Name of each mutant → its exit code; None if it was not tried."""
    codes: dict[str, int | None] = {}
    for file in MADE.rglob("*.py.meta"):
        codes |= json.loads(file.read_text())["exit_code_by_key"]
    return codes


def change(name: str) -> list[str]:
    """What a mutant changes, as lines of a diff."""
    before, after = _versions(name)
    lines = difflib.unified_diff(before.splitlines()[1:], after.splitlines()[1:], n=1, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _changed_line(name: str) -> str:
    """Such as `retry.next_delay: return None`; without its number, which changes with any other line."""
    module, _, function = name.rpartition(".")
    plain = re.split("ǁ|^x_", re.sub(r"__mutmut_\d+$", "", function))[-1]
    return f"{module.partition('.')[2]}.{plain}: " + " ".join(
        line[1:].strip() for line in change(name) if line[0] == "+"
    )


def _versions(name: str) -> tuple[str, str]:
    """The function of a mutant, before and after."""
    module, _, function = name.rpartition(".")
    sources = _functions(MADE / f"{module.replace('.', '/')}.py")
    return sources[re.sub(r"_\d+$", "_orig", function)], sources[function]


def _is_about_words(name: str) -> bool:
    before, after = (_WithoutWords().visit(ast.parse(source)) for source in _versions(name))
    return ast.dump(before) == ast.dump(after)


class _WithoutWords(ast.NodeTransformer):
    """Takes out each literal of several words, which is a text for people, and the names of functions."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:  # as ast calls it
        return ast.Constant("") if isinstance(node.value, str) and SEVERAL_WORDS.search(node.value) else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = ""
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.name = ""
        return self.generic_visit(node)


@cache
def _functions(path: Path) -> Mapping[str, str]:
    """Each function of a file by its name, unparsed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, kinds)}


def _mutmut(*names: str, at_once: int) -> None:
    command: list[str | Path] = [
        Path(sysconfig.get_path("scripts")) / "mutmut",
        "run",
        "--max-children",
        str(at_once),
        *names,
    ]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
