"""What a run shows and writes while it trains: a bar, metrics.jsonl, TensorBoard."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

STEPS_A_LINE = 50  # from one line of metrics.jsonl, or point of a curve, to the next


class Log:
    """A context that shows progress on `console` and keeps metrics in `directory`.

    A run resumed at `step` first drops the lines of later steps, which come again.
    """

    def __init__(
        self,
        console: Console,
        directory: Path,
        title: str,
        epochs: int,
        steps: int,
        step: int,
    ):
        self._console, self._title, self._epochs = console, title, epochs
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("".join(f"{line}\n" for line in lines if _is_up_to(step, line)))
        self._lines = path.open("a", buffering=1)
        self._curves = SummaryWriter(
            str(directory / "tensorboard"), purge_step=step + 1
        )
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=steps, completed=step, figures="")

    def __enter__(self) -> "Log":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._curves.close()
        self._lines.close()

    def step(
        self, step: int, loss: float, error: float, rate: float, speed: float
    ) -> None:
        """One step is done: loss and error so far in this epoch, rate, images/s."""
        figures = f"loss {loss:.3f}  error {error:.1f}%  {speed:,.0f} images/s"
        self._bar.update(self._task, completed=step, figures=figures)
        if step % STEPS_A_LINE == 0:
            self._write(
                step,
                {
                    "loss_so_far": loss,
                    "error_so_far": error,
                    "rate": rate,
                    "images_per_second": speed,
                },
            )

    def epoch(self, line: dict[str, Any]) -> None:
        """One epoch is done: its figures, by name."""
        self._write(line["step"], {k: v for k, v in line.items() if k != "step"})
        self._console.print(
            f"{self._title}  epoch {line['epoch']}/{self._epochs}  "
            f"train error {line['train_error']:.2f}%  "
            f"test error {line['test_error']:.2f}%  rate {line['rate']:g}  "
            f"{line['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )

    def _write(self, step: int, figures: dict[str, Any]) -> None:
        self._lines.write(json.dumps({"step": step} | figures) + "\n")
        for name, value in figures.items():
            self._curves.add_scalar(name, value, step)


def _is_up_to(step: int, line: str) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except ValueError:  # cut off when the program was killed
        return False
