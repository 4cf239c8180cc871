"""Time that this program does not have: a machine that sleeps, a clock that is set, hours that come twice."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from batchupload.awake import GRACE_SECONDS, SLICE_SECONDS, AwakeClock, wait_until
from batchupload.deadline import seconds_until


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def run(self, awake: AwakeClock, seconds: float) -> float:
        """Let time pass while the process runs; what `awake` says then."""
        while seconds > 0:
            step = min(seconds, SLICE_SECONDS)
            self.now += step
            seconds -= step
            awake()
        return awake()


def test_a_pause_does_not_count_whatever_its_length() -> None:
    for pause in (1.0, 75.0, 86_400.0):
        clock = Clock()
        awake = AwakeClock(clock)
        assert clock.run(awake, 50) == pytest.approx(150)
        clock.now += pause
        assert awake() == pytest.approx(150)
        assert clock.run(awake, GRACE_SECONDS) == pytest.approx(150), "what came meanwhile is seen first"
        assert clock.run(awake, 10) == pytest.approx(160)


def test_pauses_close_behind_each_other_cost_a_slice_each() -> None:
    clock = Clock()
    awake = AwakeClock(clock)
    for _ in range(4):
        clock.now += 75
        awake()
    assert awake() <= 100 + 3 * SLICE_SECONDS


def test_a_process_that_is_late_each_time_comes_to_its_end_too() -> None:
    clock = Clock()
    awake = AwakeClock(clock)
    for _ in range(1000):
        clock.now += 5
        awake()
    assert awake() > 160


def test_the_clock_never_goes_back() -> None:
    clock = Clock()
    awake = AwakeClock(clock)
    seen = []
    for step in (0.1, 3, 0.1, 0.8, 0.2, 0.9, 0.9, 0.0, 5, 0.7, 0.7) * 20:
        clock.now += step
        seen.append(awake())
    assert seen == sorted(seen)


def test_a_wait_of_a_thread_has_an_end() -> None:
    began = time.monotonic()
    assert not wait_until(lambda: False, time.sleep, 0.6)
    assert time.monotonic() - began > 0.5
    assert wait_until(lambda: True, time.sleep, 0.0)


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the zone of this machine."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "now", "text", "minutes"),
    [
        ("America/New_York", "2026-11-01T01:28-05:00", "01:30", 2),  # the hour for the second time
        ("America/New_York", "2026-11-01T01:28-04:00", "01:30", 2),  # and for the first
        ("America/New_York", "2026-11-01T01:31-04:00", "01:30", 59),
        ("America/New_York", "2026-11-01T01:31-05:00", "01:30", 24 * 60 - 1),
        ("America/New_York", "2026-11-01T00:30-04:00", "06:00", 6 * 60 + 30),
        ("America/New_York", "2026-03-08T01:58-05:00", "02:30", 2),  # left out: the clock passes over it
        ("America/New_York", "2026-03-08T01:58-05:00", "02:00", 2),
        ("America/New_York", "2026-03-08T01:58-05:00", "03:00", 2),
        ("America/New_York", "2026-03-08T03:00-04:00", "02:30", 23 * 60 + 30),
        ("America/New_York", "2026-03-07T02:40-05:00", "02:30", 23 * 60 + 20),
        ("Europe/London", "2026-10-25T01:50+01:00", "01:10", 20),
        ("Australia/Lord_Howe", "2026-04-05T01:50+11:00", "01:45", 25),  # half an hour is repeated
        ("Asia/Shanghai", "2026-11-01T01:28+08:00", "01:30", 2),
    ],
)
def test_a_deadline_in_an_hour_that_comes_twice_or_never(
    zone: str, now: str, text: str, minutes: float, in_zone: Callable[[str], None]
) -> None:
    in_zone(zone)
    assert seconds_until(text, datetime.fromisoformat(now)) == minutes * 60


def test_a_duration_is_elapsed_time_whatever_the_clocks_do(in_zone: Callable[[str], None]) -> None:
    in_zone("America/New_York")
    for now in ("2026-11-01T00:30-04:00", "2026-03-08T01:30-05:00"):
        assert seconds_until("2h30m", datetime.fromisoformat(now)) == 9000


def transitions(zone: ZoneInfo, year: int) -> list[datetime]:
    """The hours in which the zone's offset changes."""
    hour = timedelta(hours=6)
    start = datetime(year, 1, 1, tzinfo=UTC)
    hours = [start + hour * number for number in range(4 * 366)]
    offsets = [at.astimezone(zone).utcoffset() for at in hours]
    return [hours[n] for n in range(len(hours) - 1) if offsets[n] != offsets[n + 1]]


@pytest.mark.parametrize("year", [2011, 2026])  # in 2011 Samoa left out a day
def test_in_every_zone_a_deadline_is_the_next_moment_at_which_the_clock_shows_it_or_passes_it(year: int) -> None:
    tried = 0
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for change in transitions(zone, year):
            for early, text in ((0, "01:30"), (2, "02:30"), (20, "02:00"), (3, "00:15"), (5.7, "23:45")):
                now = change + timedelta(hours=early - 3, seconds=0.25)
                seconds = seconds_until(text, now, offset_in(zone))
                end, just_before = ((now + timedelta(seconds=seconds - s)).astimezone(zone) for s in (0, 1))
                assert 0 < seconds <= 25 * 3600, (name, now, text)
                shift = (end.utcoffset() or timedelta()) - (just_before.utcoffset() or timedelta())
                asked = end.replace(hour=int(text[:2]), minute=int(text[3:]), second=0, microsecond=0)
                passed = end.replace(tzinfo=None) - asked.replace(tzinfo=None)
                assert passed % timedelta(days=1) <= max(shift, timedelta()), (name, now, text, end)
                tried += 1
    assert tried > 500


def offset_in(zone: ZoneInfo) -> Callable[[float], int]:
    return lambda at: int((datetime.fromtimestamp(at, zone).utcoffset() or timedelta()).total_seconds())
