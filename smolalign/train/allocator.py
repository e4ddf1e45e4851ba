"""glibc's allocator: told to keep memory between steps, and asked how much it takes for a sequence of allocations.

It takes more than is alive at a time, since what is freed between two blocks that stay is kept as a hole: in training,
where temporaries come and go between what the backward pass will need, up to twice as much. Standard library only, so
that the sequence can be replayed in a process of its own, whose heap is as empty as that of a step about to train.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from array import array
from collections.abc import Sequence

# The numbers of mallopt's parameters, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
# PyTorch's alignment of CPU memory, in bytes.
ALIGNMENT = 64
# What the heap is extended by at a time.
TOP_PAD = 2**26


class MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def keep_memory() -> None:
    """Have this process keep what it frees, and take memory for large blocks from the heap too."""
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(M_TOP_PAD, TOP_PAD)


def memory_taken(trace: Sequence[tuple[int, int]], *, keep: bool) -> int:
    """The most memory that allocations take from the system, in bytes, holes included. Nothing is written to the
    blocks, so they cost no memory here. Where the allocator is not glibc's own, it is the most that is alive.

    Args:
        trace: `(number, size)` where block `number` is made, and `(number, 0)` where it is freed.
        keep: after `keep_memory`.
    """
    numbers = array("q", (value for event in trace for value in event))
    command = [sys.executable, "-m", "smolalign.train.allocator", "keep" if keep else "system"]
    ended = subprocess.run(command, input=numbers.tobytes(), capture_output=True, check=True)
    return int(ended.stdout)


def replay(trace: Sequence[tuple[int, int]]) -> int:
    """As `memory_taken`, in this process."""
    library = ctypes.CDLL(None)
    known = hasattr(library, "mallinfo2")
    if known:
        library.mallinfo2.restype = MallInfo
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    library.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
    blocks: dict[int, tuple[int | None, int]] = {}
    address = ctypes.c_void_p()
    alive = most_alive = taken = 0
    before = _taken(library) if known else 0
    for number, size in trace:
        if size:
            alive += size
            most_alive = max(most_alive, alive)
            # More than this machine's address space may hold: what is alive is what is known.
            if size < ALIGNMENT:
                address.value = library.malloc(size)
            else:
                known = known and library.posix_memalign(ctypes.byref(address), ALIGNMENT, size) == 0
            blocks[number] = (address.value if known else None, size)
            taken = max(taken, _taken(library) - before) if known else taken
        elif number in blocks:
            block, size = blocks.pop(number)
            library.free(block)
            alive -= size
    return max(taken, most_alive)


def _taken(library: ctypes.CDLL) -> int:
    """Bytes up to the end of the heap's last block in use: beyond it nothing has been written yet."""
    info = library.mallinfo2()
    return int(info.arena + info.hblkhd - info.keepcost)


def main() -> None:
    """Replay the trace on standard input, pairs of 64-bit numbers, and print what it takes."""
    numbers = array("q", sys.stdin.buffer.read())
    if sys.argv[1] == "keep":
        keep_memory()
    print(replay(list(zip(numbers[::2], numbers[1::2], strict=True))))


if __name__ == "__main__":
    main()
