"""What is set aside, or was released → words for a person, or JSON. Pure."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict

from batchupload.foreign import to_json
from batchupload.language import _, several
from batchupload.release import SetAside

SHOWN = 50
"""Orders that a screen lists."""


def listed(found: Sequence[SetAside], most: int, options: Sequence[str]) -> str:
    """What is set aside; `options` are those to be repeated in the command that releases."""
    if not most:
        return _("Nothing is set aside: retry.quarantine_after is 0.")
    if not found:
        return several(
            most,
            "Nothing is set aside: no order failed on {n} night.",
            "Nothing is set aside: no order failed on {n} nights running.",
        )
    orders = several(len(found), "{n:,} order", "{n:,} orders")
    lines = [_("{orders} set aside, not sent until released or until the photos change:", orders=orders), ""]
    lines += [f"  {line(one)}" for one in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(_("  … and {count:,} more; --json has all.", count=len(found) - SHOWN))
    command = shlex.join(("batchupload", "release", *options))
    both = _("Next:   {command} ORDER…   or all of them: {command} --all", command=command)
    return "\n".join([*lines, "", both])


def released(found: Sequence[SetAside], unknown: Sequence[str]) -> str:
    """What was released, and what there was nothing to release of."""
    orders = len({one.order_id for one in found})
    lines = [_("Nothing was released.")]
    if orders:
        told = several(orders, "{n:,} order", "{n:,} orders")
        lines = [_("Released {orders}: the next run with them sends them, and their nights count anew.", orders=told)]
    lines += [_("{order_id}: no failed night of it is on record.", order_id=order_id) for order_id in unknown]
    return "\n".join(lines)


def line(one: SetAside) -> str:
    """An order on one line."""
    streak = one.streak
    last = f"{streak.reason}: {streak.message}" if streak.message else streak.reason
    return _(
        "{order_id}  {nights}, {first} to {last}, last {reason}",
        order_id=one.order_id, nights=several(streak.nights, "{n} night", "{n} nights"),
        first=streak.first, last=streak.last, reason=last,
    )  # fmt: skip


def as_json(found: Sequence[SetAside]) -> str:
    """The same for machines, on one line."""
    shown = [{**asdict(one), "streak": {**asdict(one.streak), "photos": one.streak.photos.hex()}} for one in found]
    return to_json(shown)
