"""When a run goes so wrong that it had better end: the canary of its first orders, and the budget of failures. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

from batchupload.failures import common
from batchupload.language import _
from batchupload.model import Finding, Outcome, Verdict

ALIKE = 0.9
"""Share of the first orders that must meet the same for the run to end."""
FAILURES = (Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN)
FEWEST = 50
"""Rows before a budget in percent counts."""


def seen_alike(first: Sequence[Finding]) -> str:
    """What nearly all of the first orders met, for a person; empty where that is no trouble."""
    met = Counter(
        (finding.reason, common(finding.message, "")) for finding in first if finding.verdict is not Verdict.ACCEPTED
    )
    if not met:
        return ""
    [((reason, message), count)] = met.most_common(1)
    if count < ALIKE * len(first):
        return ""
    said = f" (“{message}”)" if message else ""
    return _(
        "{count} of the first {orders} orders met {reason}{said}.",
        count=count,
        orders=len(first),
        reason=reason,
        said=said,
    )


def overspent(allowed: str, outcomes: Mapping[Outcome, int], known: int = 0) -> str:
    """How the failures are more than `allowed` (`100` or `5%`), for a person; empty if they are not.

    Of the failures `known` met what they had met in an earlier run: they say nothing about this one.
    """
    failures, rows = sum(outcomes[outcome] for outcome in FAILURES) - known, sum(outcomes.values())
    share = allowed.removesuffix("%")
    most = int(allowed) if share == allowed else rows * float(share) / 100
    if failures <= most or (share != allowed and rows < FEWEST):
        return ""
    text = _(
        "{failures:,} of {rows:,} rows failed, were rejected or are unknown; {allowed} are allowed.",
        failures=failures,
        rows=rows,
        allowed=allowed,
    )
    more = _("{known:,} more met the same as in an earlier run, and don't count.", known=known)
    return f"{text} {more}" if known else text
