"""The decorator of compiled functions that allocate nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

FAST = {"contract", "nnan", "ninf", "nsz"}  # arithmetic that may be fused, but keeps the order of sums


def inlined(function: Callable | None = None, *, fastmath: Any = False) -> Any:
    """`numba.njit` without the counting of references.

    Numba counts references to every array that a called function is given, in a tuple as well; for a call with all that a
    trace reads that takes a microsecond, a hundred times as long as the call itself. A function that makes no array has no
    need of it. It is put in place of its calls, as passing all that costs a tenth of a microsecond still. A division by zero gives
    infinity in it.
    """
    options: dict[str, Any] = {"_nrt": False, "forceinline": True, "error_model": "numpy", "fastmath": fastmath}
    made = numba.njit(cache=True, **options)
    return made if function is None else made(function)
