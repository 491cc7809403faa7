"""Weights & Biases."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.monitors.base import Monitor, require_package

if TYPE_CHECKING:
    import wandb


_FLUSH_SECONDS = 1.0
"""Between two writes of the run's file: what a killed process can lose of it."""


class WandbConfig(Config):
    """Figures for Weights & Biases, in the folder `wandb` of the run."""

    project: str = Field("counterhint", min_length=1)
    """Project that the run belongs to."""
    name: str | None = None
    """Name of the run; None takes the name of its folder."""
    group: str | None = None
    """Group of runs that are looked at together, such as the seeds of one method."""
    tags: tuple[str, ...] = ()
    """Tags."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes files alone, which `wandb sync` sends later."""

    def build(self, run_dir: Path) -> "WandbMonitor":
        """The monitor of a run.

        Raises:
            InputError: wandb is not installed.
        """
        require_package("wandb")
        return WandbMonitor(self, run_dir)


class WandbMonitor(Monitor):
    """Logs each row as a step of a W&B run.

    A resumed run goes on with the same W&B run. W&B takes nothing back, so steps that are taken
    again after a crash keep the figures of the first time. Offline, every start of the trainer
    makes a folder of its own with the same run id, and a killed trainer may leave out the steps of
    its last second, which `metrics.jsonl` has.

    Args:
        config: which run.
        run_dir: the run's folder.
    """

    def __init__(self, config: WandbConfig, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._place = run_dir / "wandb.json"
        self._id = ""
        self._last_step = -1
        self._run: wandb.Run | None = None

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Open the W&B run.

        Raises:
            InputError: W&B refuses to open the run.
        """
        import wandb

        if resumed_step is not None and self._place.exists():
            place = json.loads(self._place.read_text())
            self._id, self._last_step = place["id"], place["last_step"]
        else:
            self._id, self._last_step = secrets.token_hex(8), -1
        self._run_dir.mkdir(parents=True, exist_ok=True)
        if self._config.mode == "offline":
            # Before `init`, or wandb looks its server up to send it telemetry.
            wandb.setup(wandb.Settings(mode="offline"))
        try:
            self._run = wandb.init(
                project=self._config.project,
                name=self._config.name or self._run_dir.resolve().name,
                group=self._config.group,
                tags=self._config.tags,
                mode=self._config.mode,
                dir=self._run_dir,
                id=self._id,
                resume="allow" if self._config.mode == "online" else None,
                config=dict(recipe),
                settings=wandb.Settings(
                    console="off", silent=True, x_transaction_log_flush_interval=_FLUSH_SECONDS
                ),
            )
        except wandb.Error as error:
            raise InputError(
                f"monitors.wandb: {error}; log in with `wandb login`, or set "
                "monitors.wandb.mode=offline"
            ) from error
        if self._config.mode == "online":  # the server knows what reached it
            self._last_step = self._run.starting_step - 1
        self._keep_place()

    def log(self, row: Mapping[str, float]) -> None:
        """Log the row's figures, unless W&B has this step already."""
        if self._run is None:
            raise ValueError("the W&B monitor was not started")
        step = int(row["step"])
        if step <= self._last_step:
            return
        figures = {key: value for key, value in row.items() if key != "step"}
        self._run.log(figures, step=step, commit=True)
        self._last_step = step
        self._keep_place()

    def close(self) -> None:
        """End the W&B run; online, wait until everything is sent."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _keep_place(self) -> None:
        """Notes where the W&B run stands, for when this one is resumed."""
        aside = self._place.with_suffix(".new")
        aside.write_text(json.dumps({"id": self._id, "last_step": self._last_step}) + "\n")
        os.replace(aside, self._place)
