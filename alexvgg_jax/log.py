"""What a run shows and writes while it trains: a bar, metrics.jsonl, TensorBoard."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from alexvgg_jax.files import write_text

proto: Any = event_pb2  # generated code, whose names are not declared
STEPS_A_LINE = 50  # between lines of metrics.jsonl and points of a curve


class Log:
    """A context that shows progress on `console` and keeps metrics in `directory`.

    A run resumed at `step` keeps the lines of earlier steps and has one for each epoch
    of its `history`. Raises OSError if the disk is full.
    """

    def __init__(
        self,
        console: Console,
        directory: Path,
        title: str,
        epochs: int,
        steps: int,
        step: int,
        history: Sequence[Mapping[str, Any]] = (),
        tested: str = "test",
    ):
        self._console, self._title, self._epochs = console, title, epochs
        self._tested = tested  # name of the test images
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "metrics.jsonl"
        text = path.read_text(errors="replace") if path.exists() else ""
        kept = [*_steps_up_to(step, text.splitlines()), *history]
        kept.sort(key=lambda line: line["step"])
        write_text("".join(map(_as_line, kept)), path)
        with _named(directory):
            self._lines = path.open("a", buffering=1)
            self._curves = _curves(directory.absolute() / "tensorboard", step)
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
        with contextlib.suppress(OSError):
            self._bar.stop()
        with _named(self._directory), self._lines:
            self._curves.close()

    def step(
        self, step: int, loss: float, error: float, rate: float, speed: float
    ) -> None:
        """Report a step: loss and error so far in this epoch, rate, images/s."""
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
        """Report an epoch: its figures, by name."""
        self._write(line["step"], {k: v for k, v in line.items() if k != "step"})
        self.note(
            f"{self._title}  epoch {line['epoch']}/{self._epochs}  "
            f"train error {line['train_error']:.2f}%  "
            f"{self._tested} error {line['test_error']:.2f}%  "
            f"rate {line['rate']:g}  {line['seconds']:.1f} s"
        )

    def note(self, text: str) -> None:
        """Print a line between those of the epochs."""
        with contextlib.suppress(OSError):  # a terminal that was closed
            self._console.print(text, highlight=False, soft_wrap=True)

    def _write(self, step: int, figures: dict[str, Any]) -> None:
        with _named(self._directory):
            self._lines.write(_as_line({"step": step} | figures))
            for name, value in figures.items():
                summary, now = scalar(name, value), time.time()
                event = proto.Event(step=step, wall_time=now, summary=summary)
                self._curves.write(event.SerializeToString())
            self._curves.flush()


@contextlib.contextmanager
def _named(directory: Path) -> Iterator[None]:
    """Name the folder in the error of a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{directory}: {error.strerror or error}") from None


def _curves(folder: Path, step: int) -> RecordWriter:
    """A new TensorBoard file for a run that continues from `step`.

    tensorboardX's SummaryWriter writes in a thread. A full disk ends that thread, and
    SummaryWriter.close() then waits for it forever. Its EventsWriter leaves the file
    open.
    """
    folder.mkdir(exist_ok=True)
    now = time.time()
    writer = RecordWriter(str(folder / f"events.out.tfevents.{now:.0f}"))
    first = proto.Event(wall_time=now, file_version="brain.Event:2")
    # Hides the points of later steps in earlier files.
    start = proto.SessionLog(status=proto.SessionLog.START)
    for event in (first, proto.Event(wall_time=now, step=step + 1, session_log=start)):
        writer.write(event.SerializeToString())
    return writer


def _as_line(figures: Mapping[str, Any]) -> str:
    return json.dumps({"step": figures["step"]} | dict(figures)) + "\n"


def _steps_up_to(step: int, lines: list[str]) -> Iterator[dict[str, Any]]:
    """The lines that are no epoch's, without those of later steps."""
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # cut by a crash
            figures = json.loads(line)
            if figures["step"] <= step and "epoch" not in figures:
                yield figures
