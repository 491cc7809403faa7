"""Engines that die, hang, or give numbers that are none, behind a real queue."""

import sys
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterhint.command_line import EXIT_ENGINE_DEAD
from counterhint.errors import EngineFailure, JobDeadLettered
from services.queue.records import JobState
from tests.faults.site import COUNTERHINT, Site, Teacher, is_ready
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job
from tests.teacher_server.test_weights import named


class Supervisor:
    """Starts a teacher again whenever it ends, as a container's supervisor does."""

    def __init__(self, site: Site, *command: str) -> None:
        self.exit_codes: list[int] = []
        self._site, self._command = site, command
        self._starting, self._ending = Lock(), False
        self._child = site.start(*command)
        self._thread = Thread(target=self._keep)
        self._thread.start()

    def _keep(self) -> None:
        while True:
            self.exit_codes.append(self._child.process.wait())
            with self._starting:
                if self._ending:
                    return
                self._child = self._site.start(*self._command)

    def end(self) -> None:
        with self._starting:  # none starts behind the one that is killed
            self._ending = True
            self._child.kill()
        self._thread.join()


@pytest.mark.parametrize(
    ("module", "poison", "reason", "exit_code"),
    [
        ("tests.teacher_server.broken_teacher", "die", "ENGINE_DEAD", EXIT_ENGINE_DEAD),
        ("tests.teacher_server.broken_teacher", "hang", "ENGINE_HANGING", EXIT_ENGINE_DEAD),
        ("tests.services.scripted_teacher", "crash", "TEACHER_LOST", 1),
    ],
)
def test_a_job_that_kills_the_engine_is_put_aside_after_three_tries_and_the_others_go_on(
    site: Site, module: str, poison: str, reason: str, exit_code: int
) -> None:
    address = f"unix://{site.folder}/broken.sock"
    options = {"tests.teacher_server.broken_teacher": "hang_seconds=1"}
    supervisor = Supervisor(
        site, sys.executable, "-m", module, address, options.get(module, f"{site.folder}/received")
    )
    try:
        site.services(teacher=address)
        with site.client() as client:
            names = ("a", "b", poison, "c", "d", "e")
            calls = [client.submit(make_job(name)) for name in names]
            with pytest.raises(JobDeadLettered) as dead:
                calls.pop(2).result()
            assert dead.value.details["last_reason"] == reason
            assert [call.result().job_id for call in calls] == ["a", "b", "c", "d", "e"]
        assert [job.id for job in site.ask(lambda queue: queue.dead())] == [poison]
        stats = site.run_stats()
        assert (stats.done, stats.dead) == (5, 1)
        wait_until(lambda: len(supervisor.exit_codes) == 3)  # a moment after the last answer
    finally:
        supervisor.end()
    assert supervisor.exit_codes[:3] == [exit_code] * 3


@pytest.mark.parametrize(("poison", "reason"), [("die", "ENGINE_DEAD"), ("hang", "ENGINE_HANGING")])
def test_a_lost_engine_s_job_goes_back_and_its_teacher_is_not_ready(
    site: Site, poison: str, reason: str
) -> None:
    address = f"unix://{site.folder}/broken.sock"
    command = (sys.executable, "-m", "tests.teacher_server.broken_teacher", address)
    lost = site.start(*command, "hang_seconds=1")
    services = site.services(teacher=address)
    assert is_ready(address)
    poison = f"{poison} elsewhere"  # the next teacher can score it
    with site.client() as client:
        call = client.submit(make_job(poison))
        services.wait_until_said("jobs go back to the queue")
        assert lost.wait() == EXIT_ENGINE_DEAD
        assert not is_ready(address)
        site.wait_for_state(JobState.QUEUED, poison)
        job = site.job(poison)
        # Its attempt may be higher: claims that found no teacher go back uncounted.
        assert (job.failures, job.reason) == (1, reason)
        waiting = client.submit(make_job("waiting"))
        site.wait_for_state(JobState.QUEUED, "waiting")
        site.start(
            sys.executable, "-m", "tests.services.scripted_teacher", address, f"{site.folder}/seen"
        )
        assert call.result().job_id == poison
        assert waiting.result().job_id == "waiting"
        assert site.job(poison).failures == 1
        assert site.job("waiting").failures == 0


def diverged(model: Path) -> dict[str, torch.Tensor]:
    """A model's tensors, finite but so large that its logits are not."""
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 3e38
    return tensors


def test_numbers_that_are_none_are_an_error_with_a_reason_and_the_others_go_on(
    site: Site, teacher: Teacher, fingerprint: str, model: Path, weights_root: Path
) -> None:
    file = weights_root / "diverged.safetensors"
    save_file(diverged(model), file)
    site.services(teacher=teacher.address)
    job = make_job("diverged", fingerprint=fingerprint)
    with site.client() as client:
        call = client.submit(replace(job, weights=named(file)))
        sound = [client.submit(replace(job, id=f"sound {number}")) for number in range(4)]
        with pytest.raises(EngineFailure) as failure:
            call.result()
        assert (failure.value.code.name, failure.value.reason) == ("INTERNAL", "NOT_FINITE")
        assert [call.result().job_id for call in sound] == [f"sound {n}" for n in range(4)]
    assert site.job("diverged").state is JobState.FAILED
    assert site.job("diverged").attempt == 1  # it would end so each time
    assert not teacher.ended
    assert is_ready(teacher.address)


def test_a_teacher_whose_own_weights_give_no_numbers_never_becomes_ready(
    site: Site, model: Path
) -> None:
    folder = site.folder / "diverged"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(diverged(model), folder / "model.safetensors", metadata={"format": "pt"})
    address = f"unix://{site.folder}/diverged.sock"
    teacher = site.start(
        *(*COUNTERHINT, "teacher", "serve", "--model", str(folder), "--listen", address)
    )
    assert teacher.wait() != 0
    assert " ready on " not in teacher.said
    assert "nan" in teacher.said
