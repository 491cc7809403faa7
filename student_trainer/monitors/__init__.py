"""Monitors: where the figures of a training run go."""

from student_trainer.monitors.base import Monitor, Monitors
from student_trainer.monitors.config import MonitorsConfig
from student_trainer.monitors.jsonl import JsonlFile, JsonlMonitor, read_rows
from student_trainer.monitors.prometheus import PrometheusConfig, PrometheusMonitor
from student_trainer.monitors.tensorboard import TensorBoardMonitor
from student_trainer.monitors.terminal import TerminalMonitor
from student_trainer.monitors.trackio import TrackioConfig, TrackioMonitor
from student_trainer.monitors.wandb import WandbConfig, WandbMonitor

__all__ = [
    "JsonlFile",
    "JsonlMonitor",
    "Monitor",
    "Monitors",
    "MonitorsConfig",
    "PrometheusConfig",
    "PrometheusMonitor",
    "TensorBoardMonitor",
    "TerminalMonitor",
    "TrackioConfig",
    "TrackioMonitor",
    "WandbConfig",
    "WandbMonitor",
    "read_rows",
]
