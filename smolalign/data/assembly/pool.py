"""Tasks in several processes of this machine, one after the other where one suffices."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

# Called with the name of a stage, a task and the arguments of each call; gives the index of each call as it ends.
Run = Callable[[str, Callable[..., None], Sequence[tuple[Any, ...]]], Generator[int, None, None]]


@contextmanager
def pool(workers: int) -> Iterator[Run]:
    """What runs the tasks of stages in so many processes, which live until the end of the `with` block.

    Workers are spawned as they are needed, since the threads of a parent that has drawn a progress bar or multiplied
    matrices do not survive a fork. The first error ends a stage and is raised from it.
    """
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:

        def run(
            stage: str, task: Callable[..., None], arguments: Sequence[tuple[Any, ...]]
        ) -> Generator[int, None, None]:
            alone = workers == 1 or len(arguments) < 2
            return _here(task, arguments) if alone else _there(executor, task, arguments)

        yield run


def _here(task: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> Generator[int, None, None]:
    for index, each in enumerate(arguments):
        task(*each)
        yield index


def _there(
    executor: Executor, task: Callable[..., None], arguments: Sequence[tuple[Any, ...]]
) -> Generator[int, None, None]:
    futures = {executor.submit(task, *each): index for index, each in enumerate(arguments)}
    try:
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
