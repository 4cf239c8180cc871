"""The orders and files of a scan → counts, a list for a person, a line for a machine."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from batchupload.cells import pad
from batchupload.foreign import to_json, visible
from batchupload.language import N_, _, several
from batchupload.scan import Candidate, Doubt, FoundOrder, LeftOver, State

WHAT_TO_DO = {
    State.WHOLE: "",
    State.MISSING: N_("bring the photo, named as the others are"),
    State.AMBIGUOUS: N_("keep one file for each photo"),
}

WORDS = {State.WHOLE: N_("whole"), State.MISSING: N_("missing"), State.AMBIGUOUS: N_("ambiguous")}


class FileState(StrEnum):
    """What became of a file; each is just one of these."""

    USED = "used"
    """It stands in the manifest."""
    WAITING = "waiting"
    """A good photo of an order that was left out."""
    AMBIGUOUS = "ambiguous"
    """It is one of several that may be the same photo, or may be more than one photo."""
    DOUBTFUL = "doubtful"
    IGNORED = "ignored"
    """Hidden, or the system's."""


@dataclass(slots=True)
class Tally:
    """Counts of a scan, growing with it; of each kind of finding the first `most` are kept, or all."""

    most: int | None
    orders: Counter[State] = field(default_factory=Counter)
    files: Counter[FileState] = field(default_factory=Counter)
    listed: dict[State, list[FoundOrder]] = field(default_factory=lambda: {state: [] for state in State})
    left_over: list[LeftOver] = field(default_factory=list)
    left_over_count: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Folders that can't be looked into, and why."""
    unreadable_count: int = 0
    needs_person: bool = False
    seen: str = ""
    """A file that fits no pattern, to be shown as an example: a picture, if there is one."""

    def add_order(self, order: FoundOrder, *, written: bool) -> None:
        """Count an order and its files."""
        self.orders[order.state] += 1
        self.files[FileState.USED if written else FileState.WAITING] += len(order.photos)
        self.files[FileState.AMBIGUOUS] += _sure(order.ambiguous.values())
        self.files[FileState.DOUBTFUL] += _sure(order.missing.values())
        for path in order.beside:
            self.add_left_over(LeftOver(path, Doubt.OTHER_FILE))
        if order.state is not State.WHOLE:
            self.needs_person = True
            self._keep(self.listed[order.state], order)

    def add_left_over(self, one: LeftOver) -> None:
        """Count a file that is no order's."""
        self.files[FileState.DOUBTFUL] += 1
        self.left_over_count += 1
        if not self.seen or (one.may_be_a_photo and not self.needs_person):
            self.seen = one.path
        self.needs_person |= one.may_be_a_photo
        self._keep(self.left_over, one)

    def add_unreadable(self, path: str, why: str) -> None:
        """Count a folder that can't be looked into."""
        self.unreadable_count += 1
        self.needs_person = True
        self._keep(self.unreadable, (path or ".", why))

    def _keep(self, kept: list[Any], finding: object) -> None:
        if self.most is None or len(kept) < self.most:
            kept.append(finding)


@dataclass(frozen=True, slots=True)
class Scanned:
    """A scan that has ended."""

    folder: Path
    tally: Tally
    manifest: Path | None
    """The new manifest; None where no order could be written."""
    rows: int
    again: Sequence[str]
    """The command that goes on from here."""

    @property
    def exit_code(self) -> int:
        """0 where every order is whole, and nothing is left over that an order may wait for."""
        return int(self.tally.needs_person)

    def as_json(self) -> str:
        """For machines, on one line; ASCII, so that every file name survives."""
        tally = self.tally
        return to_json(
            {
                "exit_code": self.exit_code,
                "folder": str(self.folder),
                "manifest": str(self.manifest) if self.manifest else None,
                "rows": self.rows,
                "orders": {state.value: tally.orders[state] for state in State},
                "files": {state.value: tally.files[state] for state in FileState},
                "left_over": tally.left_over_count,
                "folders_unreadable": tally.unreadable_count,
                "findings": {
                    "missing": [_order_for_machines(order) for order in tally.listed[State.MISSING]],
                    "ambiguous": [_order_for_machines(order) for order in tally.listed[State.AMBIGUOUS]],
                    "left_over": [{"path": one.path, "doubt": one.doubt} for one in self._left_over()],
                    "folders_unreadable": [{"path": path, "why": why} for path, why in tally.unreadable],
                },
                "next_command": shlex.join(self.again) or None,
            }
        )

    def as_text(self) -> str:
        """For people; paths and commands stay whole."""
        tally = self.tally
        lines = [self._verdict(), ""]
        for state in State:
            todo = _(WHAT_TO_DO[state]) if tally.orders[state] else ""
            lines.append(_state(_(WORDS[state]), tally.orders[state], todo))
            found = [f"{order.order_id}  {_order_for_people(order)}" for order in tally.listed[state]]
            lines += _listed(found, tally.orders[state] if WHAT_TO_DO[state] else 0)
        lines.append(_state(_("left over"), tally.left_over_count))
        lines += _listed(
            (f"{visible(one.path)}  {one.doubt.sentence}" for one in self._left_over()), tally.left_over_count
        )
        if tally.unreadable_count:
            todo = _("let this user look into these folders")
            lines.append(_state(_("no access"), tally.unreadable_count, todo))
            found = [f"{visible(path)}  {why}" for path, why in tally.unreadable]
            lines += _listed(found, tally.unreadable_count)
        lines.append("")
        if ignored := tally.files[FileState.IGNORED]:
            lines.append(
                _(
                    "Ignored: {files}",
                    files=several(ignored, "{n:,} hidden or system file", "{n:,} hidden or system files"),
                )
            )
        if self.manifest:
            rows = several(self.rows, "{n:,} row", "{n:,} rows")
            lines.append(_("Manifest: {manifest} ({rows})", manifest=self.manifest, rows=rows))
            lines.append(_("Next:   {command}", command=shlex.join(self.again)))
        else:
            lines.append(_("No manifest was written: no order is whole. --incomplete writes the others all the same."))
        return "\n".join(lines)

    def _left_over(self) -> list[LeftOver]:
        return sorted(self.tally.left_over, key=lambda one: one.path)

    def _verdict(self) -> str:
        orders = sum(self.tally.orders.values())
        person = orders - self.tally.orders[State.WHOLE]
        return _(
            "Scanned {files} in {folder}: {orders}, {what}.",
            files=several(sum(self.tally.files.values()), "{n:,} file", "{n:,} files"),
            folder=visible(str(self.folder)),
            orders=several(orders, "{n:,} order", "{n:,} orders"),
            what=several(person, "{n:,} needs a person", "{n:,} need a person") if person else _("all whole"),
        )


def _state(name: str, count: int, todo: str = "") -> str:
    return f"  {pad(name, 10)}{count:>9,}{f'   → {todo}' if todo else ''}"


def _order_for_people(order: FoundOrder) -> str:
    either = _(" or ")
    parts = [
        f"{name}: {either.join(visible(one.path) + _aside(one) for one in rivals)}"
        for name, rivals in order.ambiguous.items()
    ]
    parts += [
        f"{name}: {', '.join(_doubted(one.path, one.doubt) for one in there if one.doubt)}"
        for name, there in order.missing.items()
        if there
    ]
    absent = [name for name, there in order.missing.items() if not there]
    parts += [_("no {fields}", fields=", ".join(absent))] if absent else []
    parts += [f"{visible(path)} {Doubt.UNREADABLE.sentence}" for path in order.unreadable]
    return "; ".join(parts)


def _aside(one: Candidate) -> str:
    if not one.sure:
        return _(" (which may be more than one photo by its name)")
    return f" ({re.split('[:：]', one.doubt.sentence)[0]})" if one.doubt else ""


def _doubted(path: str, doubt: Doubt) -> str:
    return _("{path} is {doubt}", path=visible(path), doubt=doubt.sentence)


def _order_for_machines(order: FoundOrder) -> dict[str, Any]:
    def told(there: Sequence[Candidate]) -> list[dict[str, str | None]]:
        return [{"path": one.path, "doubt": one.doubt if one.sure else "more_than_one_photo"} for one in there]

    return {
        "order_id": order.order_id,
        "photos": dict(order.photos),
        "missing": {name: told(there) for name, there in order.missing.items()},
        "ambiguous": {name: told(rivals) for name, rivals in order.ambiguous.items()},
        "folders_unreadable": list(order.unreadable),
    }


def _listed(lines: Iterable[str], count: int) -> list[str]:
    listed = [f"          {visible(line)}" for line in lines]
    more = count - len(listed)
    return [*listed, " " * 10 + _("… and {more:,} more: --all lists them", more=more)] if more > 0 else listed


def _sure(several: Iterable[Sequence[Candidate]]) -> int:
    return sum(one.sure for candidates in several for one in candidates)
