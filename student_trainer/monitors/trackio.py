"""trackio: a local dashboard on an SQLite file."""

import io
import json
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.monitors.base import Monitor, require_package

if TYPE_CHECKING:
    from trackio.run import Run


class TrackioConfig(Config):
    """Figures for trackio, on this machine alone; `TRACKIO_DIR=<dir> trackio show` shows them.

    Where a Hugging Face token is stored, trackio asks the hub for the user's name when a run
    starts; HF_HUB_OFFLINE=1 keeps it from that.
    """

    project: str = Field("counterhint", min_length=1)
    """Project that the run belongs to."""
    name: str | None = None
    """Name of the run; None takes the name of its folder."""
    group: str | None = None
    """Group of runs that are looked at together, such as the seeds of one method."""
    dir: Path | None = None
    """Folder of the database; None takes `trackio` in the run's folder. Runs that share a folder
    and a project stand in one dashboard."""

    def build(self, run_dir: Path) -> "TrackioMonitor":
        """The monitor of a run.

        Raises:
            InputError: trackio is not installed.
        """
        require_package("trackio")
        return TrackioMonitor(self, run_dir)


class TrackioMonitor(Monitor):
    """Logs each row as a step of a trackio run.

    A resumed run goes on with the same trackio run. trackio takes nothing back, so steps that are
    taken again after a crash keep the figures of the first time.

    Args:
        config: which run.
        run_dir: the run's folder.
    """

    def __init__(self, config: TrackioConfig, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir.resolve()
        self._folder = (config.dir or run_dir / "trackio").resolve()
        self._place = self._run_dir / "trackio.json"
        self._last_step = -1
        self._run: Run | None = None

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Open the trackio run.

        Raises:
            InputError: this process uses trackio with another folder, or the folder holds another
                run of that name.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        os.environ["TRACKIO_DIR"] = str(self._folder)  # read when trackio is imported, never after
        import trackio
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import TRACKIO_DIR

        if self._folder != TRACKIO_DIR:
            raise InputError(
                f"monitors.trackio: this process keeps its runs in {TRACKIO_DIR}, and trackio "
                f"takes no second folder: set monitors.trackio.dir={TRACKIO_DIR}"
            )
        project, name = self._config.project, self._config.name or self._run_dir.name
        known = SQLiteStorage.get_latest_run_record_by_name(project, name)
        if known is not None and known["id"] != self._own_id():
            raise InputError(
                f"monitors.trackio: {self._folder} holds another run {name!r} of project "
                f"{project!r}: give monitors.trackio.name, or remove the folder"
            )
        if known is not None and resumed_step is None:
            SQLiteStorage.delete_run(project, name, run_id=known["id"])
            known = None
        if known is not None:
            last = SQLiteStorage.get_max_step_for_run(project, run_id=known["id"])
            self._last_step = -1 if last is None else last
        with redirect_stdout(io.StringIO()):  # it prints what only fits its default folder
            self._run = trackio.init(
                project=project,
                name=name,
                group=self._config.group,
                config=dict(recipe),
                resume="never" if known is None else "must",
                embed=False,
            )
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._place.write_text(json.dumps({"id": self._run.id}) + "\n")

    def _own_id(self) -> str | None:
        """The id of the trackio run that this folder's run began."""
        return json.loads(self._place.read_text())["id"] if self._place.exists() else None

    def log(self, row: Mapping[str, float]) -> None:
        """Log the row's figures, unless trackio has this step already."""
        if self._run is None:
            raise ValueError("the trackio monitor was not started")
        step = int(row["step"])
        if step <= self._last_step:
            return
        self._run.log({key: value for key, value in row.items() if key != "step"}, step=step)
        self._last_step = step

    def close(self) -> None:
        """End the trackio run, with all rows on disk."""
        if self._run is not None:
            import trackio

            with redirect_stdout(io.StringIO()):
                trackio.finish()
            self._run = None
