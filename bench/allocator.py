"""Whether what lives fits where a GPU's memory ends: a model of torch's caching allocator, fed with what a phase takes
and gives back.

Two of its ways: fixed segments, which are cut into blocks and given back to the driver as a whole, and expandable ones
(PYTORCH_ALLOC_CONF=expandable_segments:True), whose pages are mapped as they are needed. Sizes and rules are those of
c10/cuda/CUDACachingAllocator.cpp, torch 2.13: best fit, splitting, release and one retry.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

MIB = 2**20
ROUND = 512
SMALL = MIB
"""A request of more is of the large pool."""
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
OWN_SEGMENT = 10 * MIB
"""A request of more has a segment of its own size, in steps of two MiB."""

Event = tuple[int, int]
"""An id, and the bytes that it takes; or less than 0, that it gives them back."""


class RanOut(Exception):
    pass


@dataclass(eq=False)
class Block:
    start: int
    size: int
    segment: int
    is_free: bool = True


def rounded(size: int, to: int) -> int:
    return -(-size // to) * to


class Segments:
    """Fixed segments, of one stream."""

    def __init__(self, limit: int) -> None:
        self.limit, self.reserved, self.peak = limit, 0, 0
        self.used: dict[int, Block] = {}
        self.blocks: dict[int, list[Block]] = {}
        """Of each segment, in order."""
        self.segments = 0

    def replay(self, events: Iterable[Event]) -> None:
        """Raises RanOut."""
        for key, size in events:
            if size < 0:
                self.free(key)
            elif size:
                self.take(key, size)

    def take(self, key: int, size: int) -> None:
        size = rounded(max(size, ROUND), ROUND)
        block = self.best(size) or self.new(size)
        rest = block.size - size
        if rest >= (ROUND if size <= SMALL else SMALL + 1):
            block.size = size
            insort(
                self.blocks[block.segment], Block(block.start + size, rest, block.segment), key=lambda each: each.start
            )
        block.is_free = False
        self.used[key] = block

    def best(self, size: int) -> Block | None:
        small = size <= SMALL
        there = (
            block
            for blocks in self.blocks.values()
            for block in blocks
            if block.is_free and block.size >= size and (blocks[-1].start + blocks[-1].size == SMALL_SEGMENT) == small
        )
        return min(there, key=lambda block: block.size, default=None)

    def new(self, size: int) -> Block:
        whole = SMALL_SEGMENT if size <= SMALL else LARGE_SEGMENT if size < OWN_SEGMENT else rounded(size, 2 * MIB)
        if self.reserved + whole > self.limit:
            self.release()
            if self.reserved + whole > self.limit:
                raise RanOut(f"{size} bytes are wanted, and {self.reserved} of {self.limit} are reserved")
        self.segments += 1
        block = Block(0, whole, self.segments)
        self.blocks[block.segment] = [block]
        self.reserved += whole
        self.peak = max(self.peak, self.reserved)
        return block

    def free(self, key: int) -> None:
        block = self.used.pop(key, None)
        if block is None:
            return
        block.is_free = True
        blocks = self.blocks[block.segment]
        place = bisect_left(blocks, block.start, key=lambda each: each.start)
        for left in (place, place - 1):
            if 0 <= left < len(blocks) - 1 and blocks[left].is_free and blocks[left + 1].is_free:
                blocks[left].size += blocks.pop(left + 1).size

    def release(self) -> None:
        """Give whole segments back to the driver: what torch.cuda.empty_cache() does."""
        for segment, blocks in list(self.blocks.items()):
            if len(blocks) == 1 and blocks[0].is_free:
                self.reserved -= blocks[0].size
                del self.blocks[segment]


class Expandable(Segments):
    """One segment as long as addresses go, of pages of 20 MiB; the small pool, which holds a few MiB, is left out."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.blocks = {0: []}
        self.mapped: set[int] = set()

    def take(self, key: int, size: int) -> None:
        size = rounded(max(size, ROUND), ROUND)
        start = self.place(size, mapped=True)
        if start is None:
            start = self.place(size, mapped=False)
            if self.missing(start, size) > self.limit - self.reserved:
                self.release()
                start = self.place(size, mapped=False)
                if self.missing(start, size) > self.limit - self.reserved:
                    raise RanOut(f"{size} bytes are wanted, and {self.reserved} of {self.limit} are reserved")
            self.mapped |= set(self.pages(start, size))
            self.reserved = len(self.mapped) * LARGE_SEGMENT
            self.peak = max(self.peak, self.reserved)
        block = Block(start, size, 0, is_free=False)
        insort(self.blocks[0], block, key=lambda each: each.start)
        self.used[key] = block

    def place(self, size: int, mapped: bool) -> int:
        """Return the start of the smallest gap that is mapped as a whole; or of the first one that is large enough."""
        fits = []
        end = 0
        for block in self.blocks[0]:
            if block.start - end >= size and (not mapped or not self.missing(end, size)):
                fits.append((block.start - end, end))
            end = block.start + block.size
        if mapped:
            if not self.missing(end, size):
                fits.append((1 << 60, end))
            return min(fits)[1] if fits else None  # type: ignore[return-value]  # a pair of numbers
        return min((start for _, start in fits), default=end)

    def missing(self, start: int, size: int) -> int:
        return sum(page not in self.mapped for page in self.pages(start, size)) * LARGE_SEGMENT

    @staticmethod
    def pages(start: int, size: int) -> range:
        return range(start // LARGE_SEGMENT, (start + size - 1) // LARGE_SEGMENT + 1)

    def free(self, key: int) -> None:
        block = self.used.pop(key, None)
        if block is not None:
            blocks = self.blocks[0]
            del blocks[bisect_left(blocks, block.start, key=lambda each: each.start)]

    def release(self) -> None:
        """Unmap each page on which nothing lives."""
        self.mapped = {page for block in self.blocks[0] for page in self.pages(block.start, block.size)}
        self.reserved = len(self.mapped) * LARGE_SEGMENT
