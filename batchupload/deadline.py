"""What a person calls a deadline → seconds from now. Pure."""

import re
from datetime import datetime, timedelta

from batchupload.language import _

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_DURATION = re.compile(r"(?=\d)(?:(\d{1,3})h)?(?:(\d{1,4})m)?(?:(\d{1,6})s)?", re.ASCII)


def seconds_until(text: str, now: datetime) -> float:
    """Seconds from `now`, with its offset, until `06:00` next comes, or of a duration such as `2h30m`.

    Raises `ValueError` that says what is allowed.
    """
    if found := _CLOCK.fullmatch(text.strip()):
        end = now.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0, tzinfo=None)
        # The offset is looked up for each day: in a night in which the clocks change it is another.
        today, tomorrow = end.astimezone(), (end + timedelta(days=1)).astimezone()
        return ((today if today > now else tomorrow) - now).total_seconds()
    if found := _DURATION.fullmatch(text.strip()):
        hours, minutes, seconds = (int(part or 0) for part in found.groups())
        if total := hours * 3600 + minutes * 60 + seconds:
            return float(total)
    raise ValueError(_("give a time of day such as 06:00, or a duration such as 2h30m, 90m or 45s"))
