"""Canaries of CPython."""

import gc
import mmap
from collections.abc import Callable

from tests.canaries import canary

DEPTH = 900
CHUNK_BYTES = 16 * 1024
ROOM_BYTES = 1024 * 1024
REPEATS = 5


def mapped_bytes_by_depth() -> list[int]:
    """The size of this process's address space at each of :data:`DEPTH` nested calls."""
    with open("/proc/self/statm", "rb", buffering=0) as statm:

        def mapped() -> int:
            statm.seek(0)
            return int(statm.read().split()[0]) * mmap.PAGESIZE

        def descend(depth: int, sizes: list[int]) -> list[int]:
            sizes.append(mapped())
            return descend(depth - 1, sizes) if depth else sizes

        return descend(DEPTH, [])


def growth_in(call: Callable[[Callable[[], list[int]]], list[int]]) -> tuple[int, int]:
    """How many bytes the stack has grown by at the first nested call, and how many more by the last.

    Each is the least of several runs: what else allocates in a run (an arena of CPython's own, of 1 MiB; another thread)
    adds to it, and nothing takes away.
    """
    gc.disable()
    try:
        runs = []
        for _ in range(REPEATS):
            before = mapped_bytes_by_depth()[0]  # also maps what the measurement itself needs
            sizes = call(mapped_bytes_by_depth)
            runs.append((sizes[0] - before, max(sizes) - sizes[0]))
    finally:
        gc.enable()
    return min(first for first, _ in runs), min(rest for _, rest in runs)


@canary("CPython changed co_stacksize: it no longer makes room on the stack", "tlbench/costs/stack.py")
def test_a_frame_with_a_large_stack_leaves_room_for_all_that_it_calls():
    from tlbench.costs.stack import with_room

    assert growth_in(with_room) == (ROOM_BYTES, 0)


@canary("CPython no longer keeps its frames in chunks of 16 KiB", "tlbench/costs/stack.py")
def test_without_room_the_stack_grows_by_chunks():
    first, rest = growth_in(lambda function: function())
    assert first == 0
    assert rest > 0
    assert rest % CHUNK_BYTES == 0


@canary("CPython changed bytecode or marshal: the hash of code depends on comments", "tlbench/environments/sources.py")
def test_marshalled_code_depends_on_neither_comments_nor_lines_nor_shared_objects():
    import marshal

    from tlbench.environments.sources import PLAIN_MARSHAL, _without_places

    def content(source: str) -> bytes:
        code = compile(source, "tlbench", "exec", dont_inherit=True, optimize=2)
        return marshal.dumps(_without_places(code), PLAIN_MARSHAL)

    plain = "def f(x):\n    'Docstring.'\n    return (x, 'word', 12345)\n"
    other = "# why\n\n\ndef f(x):\n    'Reworded.'\n\n    # how\n    return (x, 'word', 12345)\n"
    assert content(plain) == content(other)
    assert content(plain) != content(plain.replace("12345", "12346"))
    word, equal_word = ("".join(["wo", "rd"]) for _ in range(2))
    assert marshal.dumps((word, word), PLAIN_MARSHAL) == marshal.dumps((word, equal_word), PLAIN_MARSHAL)
