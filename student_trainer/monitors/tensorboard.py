"""Scalars for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from student_trainer.monitors.base import Monitor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardMonitor(Monitor):
    """Writes each figure of a row as a scalar of its step, and the recipe as text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Open an event file whose start tells TensorBoard which earlier steps no longer count."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not always wanted

        first_step = 0 if resumed_step is None else resumed_step + 1
        self._writer = SummaryWriter(str(self._folder), purge_step=first_step)
        text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
        indented = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown's code block
        self._writer.add_text("recipe", indented, first_step)

    def log(self, row: Mapping[str, float]) -> None:
        """Write the row's scalars."""
        if self._writer is None:
            raise ValueError(f"the TensorBoard monitor of {self._folder} was not started")
        for key, value in row.items():
            if key != "step":
                self._writer.add_scalar(key, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
