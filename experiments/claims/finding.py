"""What came of checking a claim."""

from typing import Any, NamedTuple


class Finding(NamedTuple):
    """What was measured for a claim, in words and as numbers, and whether the claim holds."""

    measured: str
    holds: bool
    numbers: dict[str, Any]
