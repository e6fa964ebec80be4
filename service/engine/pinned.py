"""Pinned memory for answers: a device writes it without the processor's help, and pinning it takes long."""

import ctypes
import weakref
from collections import defaultdict, deque
from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from service.bundle import Array
from service.engine.devices import Provider

SMALLEST = 2**12
"""Bytes of the smallest block; the others are powers of two."""

MOST = 2**30
"""Bytes of all blocks. Answers that find none left lie in ordinary memory: slow clients may keep many."""


class PinnedMemory:
    """Blocks that answers lie in. The last reference to an answer gives its block back."""

    def __init__(self, provider: Provider, most: int = MOST) -> None:
        self._provider = provider
        self._left = most
        self._free: defaultdict[int, deque[Array]] = defaultdict(deque)

    def array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
        """An array of any content.

        Raises:
            DeviceError: The memory cannot be pinned.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        block_size = max(SMALLEST, 1 << (size - 1).bit_length())
        free = self._free[block_size]
        try:
            block = free.pop()
        except IndexError:
            if block_size > self._left:
                return np.empty(shape, dtype)
            self._left -= block_size
            block = self._provider.staging((block_size,), np.uint8)
        # NumPy lets all views refer to this object, and to nothing between it and them.
        memory = (ctypes.c_char * block_size).from_buffer(block.data)
        weakref.finalize(memory, free.append, block).atexit = False
        return np.frombuffer(memoryview(memory), dtype, prod(shape)).reshape(shape)
