"""Time that this program does not have: a machine that sleeps, a clock that is set, hours that come twice."""

import time

import pytest

from batchupload.awake import GRACE_SECONDS, SLICE_SECONDS, AwakeClock, wait_until


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
