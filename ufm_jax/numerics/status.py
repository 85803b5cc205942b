"""How an iterative solve ended."""

from enum import IntEnum


class Status(IntEnum):
    """Ending of one lane of a solve; stored as int32 in traced code, written by name in tables."""

    RUNNING = 0  # not ended; seen only inside a loop
    CONVERGED = 1  # the stated tolerance was met, measured at the returned point
    MAX_STEPS = 2  # the step budget ran out first
    NONFINITE = 3  # a NaN or infinity appeared; the last finite point is returned
    STALLED = 4  # no further progress is possible in this precision or along this method's steps
