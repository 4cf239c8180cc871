"""What a purge did → words for a person, with what that means. Pure."""

from batchupload.language import _, several, together
from batchupload.purge import Purged, Wanted
from batchupload.summary import size

MOST_AHEAD = 5
"""Runs with a date that lies ahead, of those that are named."""


def told(purged: Purged, wanted: Wanted) -> str:
    """What was removed, or would be; what stays of it, and what that means."""
    removed = _(
        "{runs}, {attempts}, {outcomes}, {files} ({size})",
        runs=several(purged.runs, "{n:,} run", "{n:,} runs"),
        attempts=several(purged.attempts, "{n:,} attempt", "{n:,} attempts"),
        outcomes=several(purged.outcomes, "{n:,} outcome", "{n:,} outcomes"),
        files=several(len(purged.reports), "{n:,} report file", "{n:,} report files"),
        size=size(sum(file.size for file in purged.reports)),
    )
    before = f"{wanted.before:%Y-%m-%d %H:%M}"
    lines = [
        _("Would remove what ended before {before}: {removed}.", before=before, removed=removed)
        if wanted.pretend
        else _("Removed what ended before {before}: {removed}.", before=before, removed=removed)
    ]
    if purged.standings:
        kept = _(
            "Kept of {orders}: number, photo hashes, time and verdict, so that what is uploaded is not sent again, and "
            "what may be is not called failed.",
            orders=several(purged.standings, "{n:,} older order", "{n:,} older orders"),
        )
        more = _("Newer runs speak of them.") if wanted.forget_uploaded else _("--forget-uploaded drops that too.")
        lines.append(together(kept, more))
    if purged.forgotten:
        orders = several(purged.forgotten, "{n:,} order", "{n:,} orders")
        lines.append(
            _(
                "Would forget of {orders} that they are, or may be, uploaded: where a manifest has them, they are sent "
                "again.",
                orders=orders,
            )
            if wanted.pretend
            else _(
                "Forgot of {orders} that they are, or may be, uploaded: where a manifest has them, they are sent "
                "again.",
                orders=orders,
            )
        )
    if purged.ahead:
        shown = ", ".join(
            _("run {run}, {date:%Y-%m-%d %H:%M}", run=run, date=date) for run, date in purged.ahead[:MOST_AHEAD]
        )
        more = f", … ({len(purged.ahead):,})" if len(purged.ahead) > MOST_AHEAD else ""
        lines.append(
            _(
                "Dated ahead of this machine's clock, which was or is wrong: {runs}. Each counts as old as the next "
                "run whose date can be right. Is the clock right now?",
                runs=f"{shown}{more}",
            )
        )
    lines += [
        _("Left: {path}: {why}. Look at it, and remove it yourself.", path=left.path, why=left.why)
        for left in purged.left
    ]
    return "\n".join(lines)
