"""Tasks in several processes of this machine, one after the other where one suffices."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any


def run_tasks(
    task: Callable[..., None], arguments: Sequence[tuple[Any, ...]], workers: int
) -> Generator[int, None, None]:
    """Run `task(*arguments)` for each; yields the index of each as it ends.

    Workers are spawned, since the threads of a parent that has drawn a progress bar or multiplied matrices do not
    survive a fork. The first error ends them all and is raised here.
    """
    if workers == 1 or len(arguments) < 2:
        for index, each in enumerate(arguments):
            task(*each)
            yield index
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(arguments)), mp_context=context) as pool:
        futures = {pool.submit(task, *each): index for index, each in enumerate(arguments)}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
