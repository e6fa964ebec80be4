"""A bar of the rows that are done."""

from types import TracebackType
from typing import Self

from rich.progress import Progress


class Bar:
    """A bar of the rows that are done, or nothing."""

    def __init__(self, *, shown: bool) -> None:
        self._progress = Progress(disable=not shown)
        self._task = self._progress.add_task("rows", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, total: int, done: int) -> None:
        self._progress.update(self._task, total=total, completed=done)
