"""The `monitors` section of a recipe."""

from pathlib import Path

from student_trainer.config import Config
from student_trainer.monitors.base import Monitor, Monitors
from student_trainer.monitors.jsonl import JsonlMonitor
from student_trainer.monitors.prometheus import PrometheusConfig
from student_trainer.monitors.tensorboard import TensorBoardMonitor
from student_trainer.monitors.terminal import TerminalMonitor
from student_trainer.monitors.trackio import TrackioConfig
from student_trainer.monitors.wandb import WandbConfig


class MonitorsConfig(Config):
    """Where the figures of the run go, besides `metrics.jsonl`, which is always written."""

    tensorboard: bool = True
    """Scalars for TensorBoard, in the folder `tensorboard` of the run."""
    terminal: bool = True
    """The live view in the terminal, or a line a step where there is none."""
    wandb: WandbConfig | None = None
    """Weights & Biases; needs the extra `wandb`."""
    trackio: TrackioConfig | None = None
    """trackio; needs the extra `trackio`."""
    prometheus: PrometheusConfig | None = None
    """Prometheus: `monitors.prometheus.listen=127.0.0.1:9093`."""

    def build(self, run_dir: Path) -> Monitors:
        """The monitors of a run, not started yet.

        Args:
            run_dir: the run's folder.

        Raises:
            InputError: the package of one of them is not installed.
        """
        monitors: list[Monitor] = [JsonlMonitor(run_dir / "metrics.jsonl")]
        if self.tensorboard:
            monitors.append(TensorBoardMonitor(run_dir / "tensorboard"))
        if self.wandb is not None:
            monitors.append(self.wandb.build(run_dir))
        if self.trackio is not None:
            monitors.append(self.trackio.build(run_dir))
        if self.prometheus is not None:
            monitors.append(self.prometheus.build(run_dir))
        if self.terminal:
            monitors.append(TerminalMonitor())
        return Monitors(monitors)
