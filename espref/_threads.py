"""Machinery of many slices: independent pieces of work shared among threads where there is enough of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

#: Points from which threads pay (measured), and how many are used at most.
WORTH_A_THREAD = 4096
MOST_THREADS = 8

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Sequence[S], points: int) -> list[T]:
    """``work`` on every item, in order; in threads from ``WORTH_A_THREAD`` points on, with the same results."""
    if points < WORTH_A_THREAD or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(MOST_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(work, items))
