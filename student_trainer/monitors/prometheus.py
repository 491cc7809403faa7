"""Prometheus: `/metrics`, `/health` and `/ready` of a run that goes on."""

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from prometheus_client import Gauge, Histogram

from counterhint.http_probes import check_http_address, serve_probes
from student_trainer.config import Config
from student_trainer.monitors.base import Monitor

log = logging.getLogger(__name__)

STEP = Gauge("counterhint_trainer_step", "Steps that are done")
STEPS = Gauge("counterhint_trainer_steps", "The step after which the run ends")
STEP_TIME = Gauge(
    "counterhint_trainer_step_timestamp_seconds", "When the last step was done, since 1970"
)
FIGURE = Gauge(
    "counterhint_trainer_figure", "The last step's figures, by their keys in metrics.jsonl", ["key"]
)
STEP_SECONDS = Histogram(
    "counterhint_trainer_step_seconds",
    "Seconds of a step",
    buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
)
SCORING_WAIT_SECONDS = Histogram(
    "counterhint_trainer_scoring_wait_seconds",
    "Seconds of a step in which it waited for scores",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
OPTION = "monitors.prometheus.listen"


class PrometheusConfig(Config):
    """Figures over HTTP for Prometheus; the address also answers `/health` and `/ready`."""

    listen: str
    """`host:port`; port 0 takes any free one, which is logged with `--log-level info`."""
    insecure: bool = False
    """Whether plaintext may leave this machine."""

    def build(self, run_dir: Path) -> "PrometheusMonitor":
        """The monitor of a run.

        Raises:
            InputError: the address cannot or should not be listened on.
        """
        check_http_address(self.listen, self.insecure, OPTION)
        return PrometheusMonitor(self.listen)


class PrometheusMonitor(Monitor):
    """Shows the latest row. The run is ready from `start` to `close`.

    Args:
        listen: `host:port`, checked.
    """

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._serving = ExitStack()
        self._ready = False
        self._shown: set[str] = set()

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Serve from now on.

        Raises:
            InputError: the address cannot be bound.
        """
        url = self._serving.enter_context(
            serve_probes(self._listen, lambda: "", lambda: "" if self._ready else "no run", OPTION)
        )
        log.info("metrics on %s/metrics", url)
        STEPS.set(total_steps)
        STEP.set(resumed_step or 0)
        FIGURE.clear()
        self._shown = set()
        self._ready = True

    def log(self, row: Mapping[str, float]) -> None:
        """Show the row's figures in place of those of the step before.

        One after the other, so that a figure of both is never gone; the step's number comes last.
        """
        if not self._ready:
            raise ValueError("the Prometheus monitor was not started")
        figures = {key: value for key, value in row.items() if key not in ("step", "time")}
        for key, value in figures.items():
            FIGURE.labels(key).set(value)
        for key in self._shown - figures.keys():
            FIGURE.remove(key)
        self._shown = set(figures)
        if "time/step_seconds" in row:
            STEP_SECONDS.observe(row["time/step_seconds"])
        if "scoring/wait_seconds" in row:
            SCORING_WAIT_SECONDS.observe(row["scoring/wait_seconds"])
        STEP_TIME.set(time.time())
        STEP.set(row["step"])

    def close(self) -> None:
        """Serve no longer."""
        self._ready = False
        self._serving.close()
