"""Where a database is cut into training, validation and test: whole days, by integers alone, on the host and on the device alike."""

from __future__ import annotations

from typing import Any

__all__ = ["DAY", "split_days"]

DAY = 86_400  # seconds


def split_days(low: Any, high: Any) -> tuple[Any, Any, Any]:
    """Validation and test day: 80 % and 90 % of the span, strictly inside it and apart.

    Args:
        low: i32[...], the first event, seconds since 1970; a jax or numpy array.
        high: i32[...], the last one.

    Returns:
        Days since 1970, i32[...] twice, and bool[...]: both midnights lie strictly between the events.

    Example:
        >>> import numpy as np
        >>> [int(x[0]) for x in split_days(np.asarray([0], np.int32), np.asarray([100 * 86400], np.int32))]
        [80, 90, 1]
    """
    start, span = low.astype("uint32"), high.astype("uint32") - low.astype("uint32")  # up to 2^32: a product would not fit

    def part(tenths: int) -> Any:
        return (start + span // 10 * tenths + span % 10 * tenths // 10).astype("int32") // DAY

    def least(a: Any, b: Any) -> Any:
        return b + (a - b) * (a < b).astype("int32")

    test = least(part(9), (high - 1) // DAY)  # the last midnight before the last event
    val = least(part(8), test - 1)
    return val, test, val * DAY > low
