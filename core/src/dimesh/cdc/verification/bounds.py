"""Exact confidence bounds of a share (Clopper and Pearson, 1934): they hold for every share and every number of draws."""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma, log, log1p
from typing import Final

CONFIDENCE: Final = 0.95
_TINY: Final = 1e-300


@lru_cache(1_024)
def bounds(found: int, draws: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the lower and the upper bound of a share, of which ``found`` of ``draws`` independent draws were part.

    Each bound is wrong with half of the probability ``1 - confidence``. Without draws, nothing is known: 0 and 1.
    """
    tail = (1 - confidence) / 2
    # The probability of at least k of n, at the share p, is the incomplete beta function of p with k and n - k + 1.
    lower = _solve(found, draws - found + 1, tail) if found else 0.0
    upper = _solve(found + 1, draws - found, 1 - tail) if found < draws else 1.0
    return lower, upper


def _solve(a: float, b: float, wanted: float) -> float:
    """Return the share at which the incomplete beta function is ``wanted``."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta(middle, a, b) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below this point
        return 1.0 - _beta(1.0 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * fraction


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
