"""What is set aside, or was released → words for a person, or JSON. Pure."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict

from batchupload.release import SetAside
from batchupload.summary import several

SHOWN = 50
"""Orders that a screen lists."""


def listed(found: Sequence[SetAside], most: int, options: Sequence[str]) -> str:
    """What is set aside; `options` are those to be repeated in the command that releases."""
    if not most:
        return "Nothing is set aside: retry.quarantine_after is 0."
    if not found:
        return f"Nothing is set aside: no order failed on {several(most, 'night')} running."
    lines = [f"{several(len(found), 'order')} set aside, not sent until released or until the photos change:", ""]
    lines += [f"  {line(one)}" for one in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"  … and {len(found) - SHOWN:,} more; --json has all.")
    command = shlex.join(("batchupload", "release", *options))
    return "\n".join([*lines, "", f"Next:   {command} ORDER…   or all of them: {command} --all"])


def released(found: Sequence[SetAside], unknown: Sequence[str]) -> str:
    """What was released, and what there was nothing to release of."""
    orders = len({one.order_id for one in found})
    lines = [f"Released {several(orders, 'order')}: the next run with them sends them, and their nights count anew."]
    if not orders:
        lines = ["Nothing was released."]
    lines += [f"{order_id}: no failed night of it is on record." for order_id in unknown]
    return "\n".join(lines)


def line(one: SetAside) -> str:
    """An order on one line."""
    streak = one.streak
    last = f"{streak.reason}: {streak.message}" if streak.message else streak.reason
    return f"{one.order_id}  {several(streak.nights, 'night')}, {streak.first} to {streak.last}, last {last}"


def as_json(found: Sequence[SetAside]) -> str:
    """The same for machines, on one line."""
    shown = [{**asdict(one), "streak": {**asdict(one.streak), "photos": one.streak.photos.hex()}} for one in found]
    return json.dumps(shown, ensure_ascii=False)
