"""What a person sees while a workload is measured: a bar, and what happens now."""

from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.options import Options

COLUMNS = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def bars(console: Console) -> Progress:
    """The place of all bars; a context manager."""
    return Progress(*COLUMNS, console=console, transient=True)


class Bar:
    """The bar of one workload, which also remembers what could not be measured."""

    def __init__(self, progress: Progress, workload: str) -> None:
        self._progress, self._workload = progress, workload
        self._task = progress.add_task(workload, total=None)
        self.failures: dict[str, str] = {}
        """What → why."""

    def told(self, options: Options) -> Options:
        """The options of a workload that moves this bar."""
        return replace(options, say=self._say, plan=self._plan, step=self._step, failed=self._failed)

    def end(self) -> None:
        self._progress.remove_task(self._task)

    def _say(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def _plan(self, steps: int) -> None:
        self._progress.update(self._task, total=steps)

    def _step(self) -> None:
        self._progress.advance(self._task)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures[what] = str(error) or type(error).__name__
        self._progress.console.print(f"{self._workload}  {what}: not measured: {self.failures[what]}", markup=False)
