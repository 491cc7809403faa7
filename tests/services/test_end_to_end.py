"""Trainer's client → intake → queue → dispatcher → a real teacher, each server its own process."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from counterhint.client import ScoringClient
from counterhint.errors import InvalidJob, Overloaded
from counterhint.jobs import (
    SCORE_ARRAYS,
    Cost,
    Outputs,
    ScoringJob,
    ScoringResult,
    pairs_array,
)
from deploy.local.redis import LocalRedis
from tests.processes import wait_until
from tests.services.test_monitoring import samples
from tests.teacher_server.jobs import ALL, plain_log_probs, random_job, tokens_of_pairs
from tests.tiny_models import write_tiny_llama


@contextmanager
def running(*words: str, log: Path | None = None) -> Iterator[None]:
    """Runs a server until the block ends; its log goes to a file, if one is given."""
    command = [sys.executable, "-m", "deploy.cli", *words]
    with nullcontext() if log is None else log.open("w") as file:
        child = subprocess.Popen(command, stderr=file)
    try:
        yield
        child.terminate()
        assert child.wait(timeout=240.0) == 0
    finally:
        child.kill()
        child.wait()


def metrics_url(log: Path) -> str:
    """Where a server with this log shows its metrics, once it does."""

    def told() -> re.Match[str] | None:
        return re.search(r"metrics on (\S+)/metrics", log.read_text())

    wait_until(told)
    found = told()
    assert found is not None
    return found[1]


def tokens_of(cost: Cost) -> int:
    """Tokens that were computed for a job or for one of its content before."""
    return cost.tokens_computed + cost.tokens_cached


def test_scores_are_the_same_through_either_queue_as_straight_from_the_teacher(
    tmp_path: Path, redis_server: LocalRedis
) -> None:
    write_tiny_llama(tmp_path / "model")
    teacher = f"unix://{tmp_path}/teacher.sock"
    in_process, on_redis = f"unix://{tmp_path}/memory.sock", f"unix://{tmp_path}/redis.sock"
    to_teacher = ("--teachers", teacher)
    with (
        running("teacher", "serve", "--model", f"{tmp_path}/model", "--listen", teacher),
        running("services", "run", "intake", "dispatcher", "--listen", in_process, *to_teacher),
        running(
            *("services", "run", "intake", "dispatcher", "--listen", on_redis, *to_teacher),
            *("--redis", redis_server.url),
        ),
        ScoringClient(teacher, timeout=240.0) as straight,
        ScoringClient(in_process, timeout=240.0) as by_memory,
        ScoringClient(on_redis, timeout=240.0) as by_redis,
    ):
        info = straight.get_teacher()
        assert by_memory.get_teacher() == by_redis.get_teacher() == info
        rng = np.random.default_rng(0)

        def job(number: int) -> ScoringJob:
            return ScoringJob(
                id=f"job {number}",
                run_id=f"run {number % 2}",
                contexts=tuple(rng.integers(3, 60, 20).astype(np.int32) for _ in range(3)),
                responses=tuple(rng.integers(3, 60, 9).astype(np.int32) for _ in range(2)),
                pairs=pairs_array([(0, 0), (1, 0), (2, 1)]),
                tokenizer_fingerprint=info.tokenizer_fingerprint,
                outputs=Outputs(sampled=True, entropy=True),
            )

        jobs = [job(number) for number in range(12)]
        futures = [[queue.submit(one) for queue in (by_memory, by_redis)] for one in jobs]
        for one, queued in zip(jobs, futures, strict=True):
            expected = straight.score(one)
            for result in (future.result() for future in queued):
                for name in ("sampled", "entropy"):
                    np.testing.assert_allclose(
                        getattr(result.scores, name), getattr(expected.scores, name), atol=1e-5
                    )
                assert result.weights_revision == expected.weights_revision
                assert tokens_of(result.cost) == one.tokens_computed
        with pytest.raises(InvalidJob):
            by_redis.score(
                ScoringJob(
                    id="too long",
                    run_id="run",
                    contexts=(np.full(300, 5, dtype=np.int32),),
                    responses=(np.full(9, 5, dtype=np.int32),),
                    pairs=pairs_array([(0, 0)]),
                    tokenizer_fingerprint=info.tokenizer_fingerprint,
                )
            )


def test_a_twin_run_is_answered_from_the_teacher_s_cache(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "model")
    teacher, intake = f"unix://{tmp_path}/teacher.sock", f"unix://{tmp_path}/intake.sock"
    log = tmp_path / "log"
    serve = ("teacher", "serve", "--model", f"{tmp_path}/model", "--listen", teacher)
    with (
        running(*serve, "--metrics-listen", "127.0.0.1:0", log=log),
        # Jobs of both contexts travel in parts.
        running(
            *("services", "run", "intake", "dispatcher", "--listen", intake, "--teachers", teacher),
            *("--max-part-tokens", "40"),
        ),
        ScoringClient(intake, timeout=240.0) as client,
    ):
        fingerprint = client.get_teacher().tokenizer_fingerprint
        pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]

        def result(run: str, number: int) -> ScoringResult:
            job = random_job(
                (20, 9),
                (9, 5),
                pairs,
                id=f"{run} {number}",
                seed=number,
                given=2,
                outputs=ALL,
                tokenizer_fingerprint=fingerprint,
            )
            return client.score(replace(job, run_id=run))

        for number in range(3):
            first, twin = result("run", number), result("twin", number)
            assert (first.cost.pairs_cached, first.cost.tokens_cached) == (0, 0)
            assert (twin.cost.pairs_cached, twin.cost.tokens_cached) == (4, 57)
            assert (twin.cost.tokens_computed, twin.cost.engine_seconds) == (0, 0)
            for name in SCORE_ARRAYS:
                np.testing.assert_array_equal(
                    getattr(twin.scores, name), getattr(first.scores, name)
                )
        with urlopen(f"{metrics_url(log)}/metrics") as page:
            lines = page.read().decode().splitlines()
        assert "counterhint_teacher_pairs_total 24.0" in lines
        assert "counterhint_teacher_pairs_cached_total 12.0" in lines
        assert f"counterhint_teacher_tokens_cached_total {3 * 57}.0" in lines


def test_parts_by_two_teachers_are_right_and_killing_one_of_them_loses_nothing(
    tmp_path: Path,
) -> None:
    model = write_tiny_llama(tmp_path / "model")
    teachers = [f"unix://{tmp_path}/{name}.sock" for name in ("one", "two")]
    intake = f"unix://{tmp_path}/intake.sock"
    log = tmp_path / "log"
    serve = ("teacher", "serve", "--model", f"{tmp_path}/model", "--max-job-tokens", "120")
    doomed = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *serve, "--listen", teachers[0]],
    )
    to_teachers = ("--teachers", teachers[0], "--teachers", teachers[1])
    with (
        running(*serve, "--listen", teachers[1]),
        running(
            *("services", "run", "intake", "dispatcher", "--listen", intake, *to_teachers),
            *("--max-part-tokens", "60", "--metrics-listen", "127.0.0.1:0"),
            log=log,
        ),
        ScoringClient(teachers[0], timeout=240.0) as one,
        ScoringClient(teachers[1], timeout=240.0) as two,
        ScoringClient(intake, timeout=240.0) as client,
    ):
        try:
            fingerprint = one.get_teacher().tokenizer_fingerprint
            assert two.get_teacher() == one.get_teacher() == client.get_teacher()
            every_pair = [(context, response) for response in range(3) for context in range(6)]
            jobs = [
                random_job(
                    (20, 9, 17, 30, 12, 25),
                    (9, 5, 7),
                    every_pair[number % 5 :],
                    id=f"job {number}",
                    seed=number,
                    given=2,
                    outputs=ALL,
                    tokenizer_fingerprint=fingerprint,
                )
                for number in range(30)
            ]
            with pytest.raises(Overloaded, match="split it by context"):
                two.score(jobs[0])
            services = metrics_url(log)
            wait_until(lambda: samples(services).get("dispatcher_teachers") == 2)
            futures = [client.submit(job) for job in jobs[:10]]
            for future in futures:
                future.result()
            doomed.send_signal(signal.SIGSTOP)  # what it gets from now on, it has when it dies
            futures += [client.submit(job) for job in jobs[10:]]
            wait_until(lambda: samples(services)[f"dispatcher_in_flight {teachers[0]}"] > 0)
            doomed.kill()
            for job, future in zip(jobs, futures, strict=True):
                scores, expected = future.result().scores, plain_log_probs(model, job)
                rows = np.arange(len(expected))
                blocks = np.split(np.arange(job.response_lengths.sum()), (9, 14))
                given = np.concatenate([blocks[response] for response in job.pairs[:, 1]])
                assert job.token_ids is not None
                for found, wanted in (
                    (scores.sampled, expected[rows, tokens_of_pairs(job)]),
                    (scores.top_k_log_probs, -np.sort(-expected, axis=1)[:, : ALL.top_k]),
                    (
                        scores.given,
                        np.take_along_axis(expected, job.token_ids[given], axis=1),
                    ),
                    (scores.entropy, -(np.exp(expected) * expected).sum(axis=1)),
                ):
                    np.testing.assert_allclose(found, wanted, atol=1e-4)
                assert tokens_of(future.result().cost) == job.tokens_computed
            with pytest.raises(Overloaded, match="context 0 and the responses read after it"):
                client.score(
                    random_job((100, 4), (30,), [(0, 0), (1, 0)], tokenizer_fingerprint=fingerprint)
                )
        finally:
            doomed.kill()
            doomed.wait()
