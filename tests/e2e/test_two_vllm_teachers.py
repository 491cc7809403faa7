"""Intake, dispatcher and two vLLM teachers as processes: hits of their caches, and a death."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from counterhint import ScoringClient, ScoringJob, ScoringResult
from counterhint.messages import job_to_message, result_from_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.processes import running_in, wait_until
from tests.services.prefix_cache import run_jobs
from tests.teacher_server.jobs import plain_log_probs, tokens_of_pairs
from tests.tiny_models import write_tiny_llama

pytestmark = pytest.mark.vllm

CACHE_TOKENS = 16_384
"""What a teacher's KV cache holds: a round of jobs, of which the next one reads the contexts again,
and little more."""
TOKEN_BYTES = 1024
WORDS = 61
"""Ids 3 to 63 of the model's vocabulary are words."""


@contextmanager
def running(log: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command in a session of its own, of which nothing is left behind but what it logged."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=300)
        finally:
            for number in running_in(process):
                os.kill(number, signal.SIGKILL)


class Teachers:
    """Two teachers of one model, at `addresses`."""

    def __init__(self, folder: Path, held: ExitStack) -> None:
        self.model = write_tiny_llama(
            folder / "model", hidden_size=128, max_position_embeddings=1024
        )
        self.folder = folder
        self.addresses = [f"unix://{folder}/{name}.sock" for name in ("one", "two")]
        serve = ["teacher", "serve", "--engine", "vllm", "--model", str(folder / "model")]
        serve += ["--content-cache-bytes", "0"]  # so that a context is read again by vLLM
        serve += ["--engine-arg", f"kv_cache_memory_bytes={CACHE_TOKENS * TOKEN_BYTES}"]
        self.processes = [
            held.enter_context(running(folder / f"{number}.log", *serve, "--listen", address))
            for number, address in enumerate(self.addresses)
        ]
        for address in self.addresses:
            with ScoringClient(address) as client:
                self.fingerprint = client.get_teacher(timeout=900).tokenizer_fingerprint

    @contextmanager
    def dispatched(self, addresses: Sequence[str]) -> Iterator[scoring_pb2_grpc.ScoringServiceStub]:
        """An intake in front of these teachers, all of which are connected."""
        intake = f"unix://{self.folder}/intake.sock"
        command = ["services", "run", "intake", "dispatcher", "--listen", intake]
        command += [word for address in addresses for word in ("--teachers", address)]
        command += ["--metrics-listen", "127.0.0.1:0"]
        self.log = self.folder / "services.log"
        with running(self.log, *command):
            wait_until(lambda: self.log.read_text().count(": connected") == len(addresses))
            with ScoringClient(intake) as client:
                client.get_teacher(timeout=300)
            with grpc.insecure_channel(intake.replace("unix://", "unix:")) as channel:
                yield scoring_pb2_grpc.ScoringServiceStub(channel)

    def jobs_at(self, address: str) -> float:
        """How many jobs a teacher has, as the dispatcher's metrics say."""
        page = re.search(r"metrics on (\S+)", self.log.read_text())
        assert page is not None
        with urlopen(page[1], timeout=60) as metrics:
            name = f'counterhint_dispatcher_in_flight{{teacher="{address}"}}'
            found = re.search(rf"^{re.escape(name)} (\S+)$", metrics.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def check(self, job: ScoringJob, result: ScoringResult) -> None:
        """Holds the scores against a plain pass of the model for each pair."""
        expected = np.take_along_axis(
            plain_log_probs(self.model, job), tokens_of_pairs(job)[:, None], 1
        )
        np.testing.assert_allclose(result.scores.sampled, expected[:, 0], rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teachers]:
    with ExitStack() as held:
        yield Teachers(tmp_path_factory.mktemp("two"), held)


def rounds_of_runs(teachers: Teachers, name: str, shift: int, steps: int) -> list[list[ScoringJob]]:
    """Jobs of three runs in rounds that are sent together. With another shift they are the same in
    other words, so that they have nothing in common with these."""

    def shifted(job: ScoringJob) -> ScoringJob:
        return replace(
            job,
            id=f"{name}/{job.id}",
            contexts=tuple((ids - 3 + shift) % WORDS + 3 for ids in job.contexts),
            tokenizer_fingerprint=teachers.fingerprint,
        )

    runs = [run_jobs(run, seed, steps, groups=3) for seed, run in enumerate("abc")]
    together = zip(*runs, strict=True)
    return [[shifted(job) for of_run in of_runs for job in of_run] for of_runs in together]


def replies(
    stub: scoring_pb2_grpc.ScoringServiceStub, jobs: Sequence[ScoringJob]
) -> Iterator[tuple[ScoringJob, ScoringResult]]:
    """All that is answered to these jobs, as it comes, until the intake has nothing more to say."""
    by_id = {job.id: job for job in jobs}
    messages = [scoring_pb2.ScoreStreamRequest(job=job_to_message(job)) for job in jobs]
    for reply in stub.ScoreStream(iter(messages)):
        assert reply.WhichOneof("outcome") == "response", reply
        yield by_id[reply.id], result_from_message(reply.response, by_id[reply.id])


def test_two_teachers_read_as_much_from_their_caches_as_one(teachers: Teachers) -> None:
    shares = []
    for shift, addresses in enumerate((teachers.addresses, teachers.addresses[:1])):
        naive = computed = 0
        with teachers.dispatched(addresses) as stub:
            for at_once in rounds_of_runs(teachers, f"shares-{shift}", shift, steps=5):
                for _, result in replies(stub, at_once):
                    naive += result.cost.tokens_naive
                    computed += result.cost.tokens_computed
        shares.append(1 - computed / naive)
    together, alone = shares
    assert alone > 0.3
    assert abs(together - alone) < 0.05


def test_when_one_is_killed_every_job_is_answered_once(teachers: Teachers) -> None:
    rounds = rounds_of_runs(teachers, "killed", 7, steps=2)
    jobs = [job for at_once in rounds for job in at_once]
    answered = []
    killed = teachers.processes[1]
    with teachers.dispatched(teachers.addresses) as stub:
        killed.send_signal(signal.SIGSTOP)  # it answers none of the jobs that it gets
        for job, result in replies(stub, jobs):
            answered.append(job.id)
            if killed.poll() is None:
                wait_until(lambda: teachers.jobs_at(teachers.addresses[1]))
                killed.kill()
                killed.wait()
            teachers.check(job, result)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(answered) == sorted(job.id for job in jobs)
