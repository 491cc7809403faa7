"""A run's figures, fetched over HTTP while it goes on."""

import logging
import urllib.request
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from counterhint.errors import InputError, Unavailable
from student_trainer.monitors import MonitorsConfig, prometheus
from student_trainer.monitors.prometheus import PrometheusConfig, PrometheusMonitor
from student_trainer.scoring import ScoringConfig
from student_trainer.scoring.connection import find_teacher, open_client


def samples(url: str) -> dict[str, float]:
    """Our samples, by name and label values."""
    with urllib.request.urlopen(url, timeout=240) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    return {
        " ".join([sample.name.removeprefix("counterhint_trainer_"), *sample.labels.values()]): (
            sample.value
        )
        for family in families
        for sample in family.samples
    }


def served_at(caplog: pytest.LogCaptureFixture) -> str:
    return caplog.messages[-1].removeprefix("metrics on ")


def test_the_latest_row_is_shown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    with PrometheusConfig(listen="127.0.0.1:0").build(tmp_path) as monitor:
        monitor.start({}, 7, resumed_step=2)
        url = served_at(caplog)
        before = samples(url)
        assert (before["step"], before["steps"]) == (2, 7)
        monitor.log({"step": 3, "time": 1.0, "rollout/reward": 0.25, "optim/lr": 0.1})
        monitor.log(
            {
                "step": 4,
                "time": 2.0,
                "rollout/reward": 0.5,
                "time/step_seconds": 4.0,
                "scoring/wait_seconds": 1.5,
            }
        )
        after = samples(url)
        assert after["step"] == 4
        assert after["figure rollout/reward"] == 0.5
        assert "figure optim/lr" not in after
        assert after["step_timestamp_seconds"] > 1.7e9
        for name, seconds in (("step_seconds", 4.0), ("scoring_wait_seconds", 1.5)):
            assert after[f"{name}_count"] == before[f"{name}_count"] + 1
            assert after[f"{name}_sum"] == before[f"{name}_sum"] + seconds
        with urllib.request.urlopen(url.replace("/metrics", "/ready"), timeout=240) as reply:
            assert reply.status == 200
    with pytest.raises(OSError, match="refused"):
        samples(url)


def test_whoever_asks_while_a_row_is_taken_over_misses_no_figure(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    row = {"rollout/reward": 0.25, "time/step_seconds": 4.0, "scoring/wait_seconds": 1.5}
    seen: list[dict[str, float]] = []
    with PrometheusConfig(listen="127.0.0.1:0").build(tmp_path) as monitor:
        monitor.start({}, 7)
        url = served_at(caplog)
        monitor.log({"step": 3, "time": 1.0, **row})
        before = samples(url)
        for metric in (prometheus.STEP_SECONDS, prometheus.SCORING_WAIT_SECONDS):
            observe = metric.observe

            def looked_at(seconds: float, observe: Callable[[float], None] = observe) -> None:
                seen.append(samples(url))
                observe(seconds)

            monkeypatch.setattr(metric, "observe", looked_at)
        figure = prometheus.FIGURE.labels

        def looked_for(key: str) -> Gauge:
            seen.append(samples(url))
            return figure(key)

        monkeypatch.setattr(prometheus.FIGURE, "labels", looked_for)
        monitor.log({"step": 4, "time": 2.0, **row})
        assert len(seen) == len(row) + 2
        assert all(f"figure {key}" in asked for asked in seen for key in row)
        # Who sees the new step sees all of it.
        assert {asked["step"] for asked in seen} == {3}
        after = samples(url)
        assert after["step"] == 4
        assert after["step_seconds_count"] == before["step_seconds_count"] + 1


def test_tries_to_reach_the_teacher_are_counted(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By the client's clock every look at it takes 100 s: there is time for one try.
    clock = SimpleNamespace(monotonic=count(0, 100).__next__)
    monkeypatch.setattr("counterhint.client.time", clock)
    config = ScoringConfig(address=f"unix://{tmp_path}/nobody.sock", connect_timeout=250)
    caplog.set_level(logging.INFO)
    with PrometheusConfig(listen="127.0.0.1:0").build(tmp_path) as monitor:
        monitor.start({}, 1)
        url, name = served_at(caplog), "scoring_retries_total UNAVAILABLE"
        before = samples(url).get(name, 0)
        with open_client(config) as client, pytest.raises(InputError) as refusal:
            find_teacher(client, config)
        assert isinstance(refusal.value.__cause__, Unavailable)
        assert samples(url)[name] == before + 1


def test_it_is_chosen_by_its_section(tmp_path: Path) -> None:
    config = MonitorsConfig.model_validate({"prometheus": {"listen": "127.0.0.1:0"}})
    assert any(isinstance(one, PrometheusMonitor) for one in config.build(tmp_path)._monitors)
    with pytest.raises(InputError, match=r"monitors\.prometheus\.listen 0\.0\.0\.0:1 would carry"):
        PrometheusConfig(listen="0.0.0.0:1").build(tmp_path)
    with pytest.raises(InputError, match=r"prometheus\.listen no-such-host\.invalid:1 cannot be"):
        PrometheusConfig(listen="no-such-host.invalid:1", insecure=True).build(tmp_path)
