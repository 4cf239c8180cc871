"""One attempt of an order, made and judged: photo set → endpoint → what it proves."""

import asyncio
from datetime import UTC, datetime

from batchupload.endpoint import Endpoint
from batchupload.model import Attempt, Finding, PhotoSet, Verdict
from batchupload.reasons import Reason
from batchupload.settings import Settings
from batchupload.stop import InterruptedAttemptError, Stop
from batchupload.verdict import judge


async def make_attempt(
    endpoint: Endpoint, order_id: str, photo_set: PhotoSet, settings: Settings, stop: Stop
) -> Attempt:
    """Send the photos once; the end of the drain time breaks it off.

    Raises nothing for what network and endpoint do: the attempt's finding tells.
    """
    now = asyncio.get_running_loop().time
    body = endpoint.prepare(order_id, photo_set)
    transfer = body.transfer
    started_at, began = datetime.now(UTC).astimezone(), now()
    try:
        async with stop.interruptible():
            answer = await endpoint.send(body)
    except InterruptedAttemptError:
        finding = Finding(Verdict.AMBIGUOUS if transfer.whole else Verdict.RETRY, Reason.STOPPED)
    else:
        rules, cap = settings.endpoint.replies, settings.retry.retry_after_cap
        finding = judge(answer, transfer.whole, rules, datetime.now(UTC), cap)
    finally:
        ended = now()
        await body.release()  # out here, where the end of the drain time takes no answer back
    uploading = (transfer.uploaded_at or ended) - began
    return Attempt(started_at, began, ended - began, uploading, transfer.bytes_sent, finding)
