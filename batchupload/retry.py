"""The attempts of one order so far → when to make the next one; tenacity's backoff over the house's defaults."""

import random

from tenacity import RetryCallState, Retrying, wait_random_exponential

from batchupload.model import Attempt, Verdict
from batchupload.settings import RetrySettings

WORTH_REPEATING = frozenset({Verdict.RETRY, Verdict.AMBIGUOUS})


class RetryPolicy:
    """When an order is tried again."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        # Full jitter: a wait is random between 0 and base × 2ⁿ⁻¹, at most the cap ("Exponential Backoff And Jitter",
        # AWS Architecture Blog, 2015).
        self._backoff = wait_random_exponential(multiplier=settings.base, max=settings.cap)

    def next_delay(self, attempts: tuple[Attempt, ...], elapsed: float) -> float | None:
        """Seconds to wait before the next attempt, or None where there is to be none.

        `elapsed` seconds since the first attempt began; none begins after `retry.order_limit`.
        """
        last = attempts[-1].finding
        if last.verdict not in WORTH_REPEATING or self.exhausted(attempts):
            return None
        delay = self._wait(len(attempts), last.retry_after)
        return delay if elapsed + delay < self._settings.order_limit else None

    def exhausted(self, attempts: tuple[Attempt, ...]) -> bool:
        """Whether the order has had all its attempts."""
        return len(attempts) >= self._settings.attempts

    def _wait(self, made: int, asked: float | None) -> float:
        if asked is not None:
            # All that were told the same time shall not come back in the same instant.
            return asked + random.uniform(0, self._settings.base)
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = made
        return self._backoff(state)
