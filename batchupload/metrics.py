"""A snapshot of a run → metrics for Prometheus. They hold no order's number, no path and no name."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from batchupload.model import Outcome, Verdict
from batchupload.snapshot import RunFacts, Snapshot, State
from batchupload.summary import ATTEMPT_BUCKETS


@dataclass(frozen=True, slots=True)
class Ends:
    """When runs came to their end, in Unix time, and how; None for not (yet)."""

    ended_at: float | None = None
    exit_code: int | None = None
    last_finished_at: float | None = None
    """The newest end of a run that did all its rows: exit 0 or 1."""
    last_success_at: float | None = None
    """The newest end of a run that nobody needs to look at: exit 0."""

    def after(self, ended_at: float, exit_code: int) -> "Ends":
        """With the end of this run."""
        return Ends(
            ended_at,
            exit_code,
            ended_at if exit_code in {0, 1} else self.last_finished_at,
            ended_at if exit_code == 0 else self.last_success_at,
        )


def exposition(facts: RunFacts, now: Snapshot, ends: Ends) -> bytes:
    """All metrics, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(facts, now, ends))
    return generate_latest(registry)


class _Collector:
    def __init__(self, facts: RunFacts, now: Snapshot, ends: Ends) -> None:
        self._facts = facts
        self._now = now
        self._ends = ends

    def collect(self) -> Iterable[Metric]:
        """Each metric."""
        now, ends = self._now, self._ends
        info = InfoMetricFamily("batchupload_run", "The run that these figures are of.")
        info.add_metric([], {"run": str(self._facts.run), "version": self._facts.version})
        yield info
        yield from self._rows()
        yield from self._sends()
        yield _gauge("run_start_timestamp_seconds", "When the run began.", _unix(self._facts.started_at))
        yield _gauge("run_end_timestamp_seconds", "When the run ended; absent while it goes on.", ends.ended_at)
        yield _gauge("run_exit_code", "The exit code of the run; absent while it goes on.", ends.exit_code)
        yield _gauge("updated_timestamp_seconds", "When these figures were taken.", now.taken_at)
        yield _gauge("last_finished_timestamp_seconds", "End of the last run with exit 0 or 1.", ends.last_finished_at)
        yield _gauge("last_success_timestamp_seconds", "End of the last run with exit 0.", ends.last_success_at)

    def _rows(self) -> Iterable[Metric]:
        now = self._now
        rows = GaugeMetricFamily("batchupload_rows", "Rows that have their outcome.", labels=["outcome", "reason"])
        # Each outcome is there from the start, so that an alert sees it rise from 0.
        for outcome in Outcome:
            if not now.outcomes.get(outcome):
                rows.add_metric([outcome, ""], 0)
        for (outcome, reason), count in now.reasons.items():
            rows.add_metric([outcome, reason], count)
        yield rows
        yield _gauge("rows_planned", "Rows of the manifests.", now.total)
        yield _gauge("rows_remaining", "Rows without an outcome.", now.total - now.rows)

    def _sends(self) -> Iterable[Metric]:
        now = self._now
        attempts = CounterMetricFamily("batchupload_attempts", "Sends that have ended.", labels=["verdict"])
        for verdict in Verdict:
            attempts.add_metric([verdict], now.attempts.get(verdict, 0))
        yield attempts
        yield CounterMetricFamily("batchupload_sent_bytes", "Body bytes of those sends.", value=now.bytes_sent)
        counts = accumulate(now.attempt_buckets)
        bounds = [*(str(bound) for bound in ATTEMPT_BUCKETS), "+Inf"]
        seconds = HistogramMetricFamily("batchupload_attempt_duration_seconds", "How long those sends took.")
        seconds.add_metric([], list(zip(bounds, counts, strict=True)), now.attempt_seconds)
        yield seconds
        yield _gauge("sends_under_way", "Sends that are under way.", now.pace.under_way)
        yield _gauge("sends_limit", "Sends that may be under way at once.", now.pace.at_once)
        state = GaugeMetricFamily("batchupload_state", "1 for what the run is doing.", labels=["state"])
        for one in State:
            state.add_metric([one], self._ends.ended_at is None and now.pace.state is one)
        yield state


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(f"batchupload_{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
