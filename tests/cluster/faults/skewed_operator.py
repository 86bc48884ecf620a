"""The operator on a node whose clock is SECONDS ahead.

python -m tests.cluster.faults.skewed_operator SECONDS ...
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, tzinfo
from unittest import mock

from dreambooth_operator.controller import __main__ as operator
from dreambooth_operator.controller.kube import clock

SKEW = timedelta(seconds=float(sys.argv.pop(1)))


class SkewedTime(datetime):
    """datetime, on a node whose clock is wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> SkewedTime:
        return super().now(tz) + SKEW


if __name__ == "__main__":
    with mock.patch.object(clock, "datetime", SkewedTime):
        operator.main()
