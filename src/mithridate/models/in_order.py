"""Work on many items at once whose results come in the items' own order, with few of them held."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, waiting: int = 2
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with what the work returns for it.

    Args:
        work: Called in threads beside the caller's; it must not depend on what was done for other items.
        items: Taken as threads become free, in the caller's thread.
        threads: Items worked on at a time.
        waiting: Results that may wait for the caller, so that a caller that is busy does not stop the threads.

    Whatever the work raises is raised here, when its item's turn comes; later items are dropped.
    """
    begun: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                begun.append((item, pool.submit(work, item)))
                if len(begun) >= threads + waiting:
                    first, future = begun.popleft()
                    yield first, future.result()
            while begun:
                first, future = begun.popleft()
                yield first, future.result()
        finally:
            for _, future in begun:
                future.cancel()
