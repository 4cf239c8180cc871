"""What a purge did → words for a person, with what that means. Pure."""

from batchupload.purge import Purged, Wanted
from batchupload.summary import size


def told(purged: Purged, wanted: Wanted) -> str:
    """What was removed, or would be; what stays of it, and what that means."""
    verb = "Would remove" if wanted.pretend else "Removed"
    files = f"{_count(len(purged.reports), 'report file')} ({size(sum(file.size for file in purged.reports))})"
    removed = ", ".join(
        (
            _count(purged.runs, "run"),
            _count(purged.attempts, "attempt"),
            _count(purged.outcomes, "outcome"),
            files,
        )
    )
    lines = [f"{verb} what ended before {wanted.before:%Y-%m-%d %H:%M}: {removed}."]
    if purged.standings:
        lines.append(
            f"Kept of {_count(purged.standings, 'older order')}: number, photo hashes, time and verdict, so that what "
            "is uploaded is not sent again, and what may be is not called failed. "
            + ("Newer runs speak of them." if wanted.forget_uploaded else "--forget-uploaded drops that too.")
        )
    if purged.forgotten:
        lines.append(
            f"{'Would forget' if wanted.pretend else 'Forgot'} of {_count(purged.forgotten, 'order')} that they are, "
            "or may be, uploaded: where a manifest has them, they are sent again."
        )
    lines += [f"Left: {left.path}: {left.why}. Look at it, and remove it yourself." for left in purged.left]
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
