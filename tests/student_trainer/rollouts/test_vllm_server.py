"""Sampling servers that are killed, start anew, or get their weights while they sample."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from counterhint.command_line import EXIT_BAD_INPUT
from counterhint.errors import InputError, Unavailable, WeightsUnavailable
from student_trainer.models import Student
from student_trainer.rollouts.base import Sample, SamplingRequest
from tests.student_trainer.rollouts import sampling_ranks
from tests.student_trainer.rollouts.vllm_processes import (
    SamplingServer,
    add_noise,
    full_log_probs,
    read_student,
)
from tests.tiny_models import write_tiny_llama

pytestmark = pytest.mark.vllm

PROMPT = np.array([3, 7, 9, 11], dtype=np.int32)
REQUEST = SamplingRequest(group_size=2, max_new_tokens=30, temperature=1.0, seed=0, max_rows=4)


@pytest.fixture
def student(llama_folder: Path) -> Student:
    return read_student(llama_folder)


def weights_of(student: Student) -> Iterator[tuple[str, Tensor]]:
    return student.model.named_parameters()


def test_weights_pushed_while_groups_are_under_way_never_mix(
    llama_server: SamplingServer, student: Student, llama_folder: Path
) -> None:
    students = [read_student(llama_folder) for _ in range(3)]
    for revision, updated in enumerate(students):
        add_noise(updated, seed=revision)
    with llama_server.sampler(student) as sampler:
        sampler.load_weights(weights_of(students[0]), 0)
        groups = sampler.sample_groups([PROMPT] * 60, replace(REQUEST, max_new_tokens=100))
        drawn = [next(groups)]
        for revision in (1, 2):
            sampler.load_weights(weights_of(students[revision]), revision)
            while drawn[-1][1][0].revision < revision:  # those that were under way come first
                drawn.append(next(groups))
        drawn.extend(groups)
    assert len(drawn) == 60
    assert {samples[0].revision for _, samples in drawn} == {0, 1, 2}
    for _, samples in drawn:
        assert len({s.revision for s in samples}) == 1
        for s in samples:
            ours = full_log_probs(students[s.revision], PROMPT, s.token_ids)
            chosen = ours.gather(1, torch.tensor(s.token_ids)[:, None].long())[:, 0]
            np.testing.assert_allclose(s.log_probs, chosen, atol=1e-3)


def test_weights_that_lack_some_are_refused_and_nothing_is_sampled_from_the_old_ones(
    llama_server: SamplingServer, student: Student
) -> None:
    with llama_server.sampler(student) as sampler:
        sampler.load_weights(weights_of(student), 0)
        with pytest.raises(WeightsUnavailable, match=r"no weights came for model\.norm\.weight"):
            sampler.load_weights(list(weights_of(student))[:-1], 1)
        with pytest.raises(WeightsUnavailable, match="no weights are in place"):
            list(sampler.sample_groups([PROMPT], REQUEST))
        sampler.load_weights(weights_of(student), 2)
        ((_, samples),) = sampler.sample_groups([PROMPT], REQUEST)
        assert {s.revision for s in samples} == {2}


def test_two_trainers_never_get_each_others_samples(
    llama_server: SamplingServer, student: Student, llama_folder: Path
) -> None:
    other = read_student(llama_folder)
    add_noise(other, seed=5)
    with llama_server.sampler(student) as ours, llama_server.sampler(other) as theirs:
        ours.load_weights(weights_of(student), 0)
        theirs.load_weights(weights_of(other), 0)
        greedy = replace(REQUEST, temperature=0.0)
        for sampler, trained in ((ours, student), (theirs, other), (ours, student)):
            ((_, samples),) = sampler.sample_groups([PROMPT], greedy)
            best = full_log_probs(trained, PROMPT, samples[0].token_ids).argmax(-1)
            assert samples[0].token_ids.tolist() == best.tolist()


def test_a_server_with_a_model_of_another_shape_is_refused(
    llama_server: SamplingServer, tmp_path: Path
) -> None:
    write_tiny_llama(tmp_path, vocab_size=80, hidden_size=128)
    with pytest.raises(InputError, match="has a vocabulary of 64, the student one of 80"):
        llama_server.sampler(read_student(tmp_path))


def test_responses_that_would_be_cut_short_are_refused(
    llama_server: SamplingServer, student: Student
) -> None:
    with llama_server.sampler(student) as sampler:
        sampler.load_weights(weights_of(student), 0)
        with pytest.raises(InputError, match="max_model_len is 256"):
            next(iter(sampler.sample_groups([PROMPT], replace(REQUEST, max_new_tokens=253))))


def test_ranks_share_a_server_and_the_first_pushes_what_all_of_them_hold(
    llama_server: SamplingServer, student: Student, llama_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.json"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [llama_folder, llama_server.address, llama_server.weights_dir, out]
    subprocess.run(
        [*torchrun, "-m", sampling_ranks.__name__, *map(str, arguments)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    rows = json.loads(out.read_text())
    assert {(row["rank"], row["revision"]) for row in rows} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert sorted({row["prompt"] for row in rows}) == list(range(6))
    for row in rows:
        prompt, drawn = sampling_ranks.PROMPTS[row["prompt"]], np.array(row["token_ids"])
        ours = full_log_probs(student, prompt, drawn)
        chosen = ours.gather(1, torch.tensor(drawn)[:, None])[:, 0]
        np.testing.assert_allclose(row["log_probs"], chosen, atol=1e-3)


def test_a_killed_server_is_a_typed_error_or_is_waited_for(
    llama_server: SamplingServer, student: Student
) -> None:
    with (
        llama_server.sampler(student) as patient,
        llama_server.sampler(student, patience=1.0) as impatient,
    ):
        impatient.load_weights(weights_of(student), 0)
        patient.load_weights(weights_of(student), 4)
        llama_server.kill()
        remedy = r"sampler\.sock has been out of reach for 1 s .*counterhint sampler serve"
        with pytest.raises(Unavailable, match=remedy):
            list(impatient.sample_groups([PROMPT], REQUEST))
        with pytest.raises(Unavailable, match=remedy):
            impatient.load_weights(weights_of(student), 1)
        drawn: list[tuple[int, tuple[Sample, ...]]] = []
        waiting = threading.Thread(
            target=lambda: drawn.extend(patient.sample_groups([PROMPT], REQUEST))
        )
        waiting.start()
        llama_server.start()
        waiting.join()
        # The new process had no weights: it was given those of the sampler that waited.
        ((_, samples),) = drawn
        for s in samples:
            assert s.revision == 4
            ours = full_log_probs(student, PROMPT, s.token_ids)
            chosen = ours.gather(1, torch.tensor(s.token_ids)[:, None].long())[:, 0]
            np.testing.assert_allclose(s.log_probs, chosen, atol=1e-3)
        with pytest.raises(WeightsUnavailable, match="no weights are in place"):
            list(impatient.sample_groups([PROMPT], REQUEST))
        # An engine that dies takes its server with it, so that whoever watches it starts it anew.
        impatient.load_weights(weights_of(student), 2)
        llama_server.kill_engine()
        with pytest.raises(Unavailable, match="out of reach"):
            list(impatient.sample_groups([PROMPT], REQUEST))
        assert llama_server.exit_code() == EXIT_BAD_INPUT
        llama_server.start()
