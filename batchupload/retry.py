"""The attempts of one order so far → when to make the next one; tenacity's strategies over the house's defaults."""

import random

from tenacity import (
    RetryCallState,
    Retrying,
    retry_always,
    stop_after_attempt,
    wait_random_exponential,
)

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
        self._tenacity = Retrying(
            stop=stop_after_attempt(settings.attempts),
            wait=self._wait,
            retry=retry_always,  # what is not worth it is not asked about
        )

    def next_delay(self, attempts: tuple[Attempt, ...], elapsed: float) -> float | None:
        """Seconds to wait before the next attempt, or None where there is to be none.

        `elapsed` seconds since the first attempt began; none begins after `retry.order_limit`.
        """
        if attempts[-1].finding.verdict not in WORTH_REPEATING:
            return None
        state = RetryCallState(self._tenacity, None, (), {})
        state.attempt_number = len(attempts)
        state.set_result(attempts[-1])
        if self._tenacity.stop(state):
            return None
        delay = self._tenacity.wait(state)
        return delay if elapsed + delay < self._settings.order_limit else None

    def exhausted(self, attempts: tuple[Attempt, ...]) -> bool:
        """Whether the order has had all its attempts."""
        return len(attempts) >= self._settings.attempts

    def _wait(self, state: RetryCallState) -> float:
        attempt: Attempt | None = state.outcome.result() if state.outcome else None
        asked = attempt.finding.retry_after if attempt else None
        if asked is None:
            return self._backoff(state)
        # All that were told the same time shall not come back in the same instant.
        return asked + random.uniform(0, self._settings.base)
