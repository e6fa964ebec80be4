"""What a person sees while a model trains: a bar with the time left on a terminal, and a line per epoch."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """A progress display; a context manager.

    Args:
        epochs: At most so many will be trained.
        steps: Steps in an epoch.
        done: Epochs trained before this display began.
        shown: Whether this process shows anything.
    """

    def __init__(self, epochs: int, steps: int, done: int, shown: bool) -> None:
        self._console = Console(stderr=True, quiet=not shown, soft_wrap=True)
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left, at most"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("", total=epochs * steps, completed=done * steps, epoch=done + 1)
        self._epochs, self._steps = epochs, steps

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def step(self) -> None:
        """One step is done."""
        self._progress.advance(self._task)

    def epoch(self, number: int, figures: dict[str, float], best: bool) -> None:
        """An epoch is done; its figures in nats per row, `best` if it is the best so far."""
        text = "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        place = f"{number:>{len(str(self._epochs))}}/{self._epochs}"
        self._console.print(f"epoch {place}  {text}{'  ← best' if best else ''}", highlight=False)
        self._progress.update(self._task, completed=number * self._steps, epoch=number + 1)
