"""A teacher without a model, on a real gRPC server in a thread of its own.

Its numbers tell what they belong to: see `number`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import Cost, Missing, Scores, ScoringJob, ScoringResult, TeacherInfo
from counterhint.validation import validate_job
from tests.counterhint.scripted_server import ScriptedService, server_in_a_thread

VOCABULARY = 64
INFO = TeacherInfo("scripted", "r0", "f" * 64, VOCABULARY, 256, 8, "script", "1", 10_000)


def number(context: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """The log prob of tokens after a context: by both, and different for different ones."""
    weights = np.arange(1, len(context) + 1)
    return (-((context * weights).sum() % 101) - ids / 100 - 1).astype(np.float32)


def top_k_of(response: NDArray[np.int32], k: int) -> NDArray[np.int32]:
    """The k most probable ids at each position."""
    return ((response[:, None] * 7 + np.arange(k)) % VOCABULARY).astype(np.int32)


@dataclass
class Teacher:
    """What the server is, how it misbehaves, and what it was asked."""

    info: TeacherInfo = INFO
    revision_of: Callable[[int, ScoringJob], str] | None = None
    """Revision of the weights that score the n-th job; None for those that it names."""
    missing: Callable[[ScoringJob, int], NDArray[np.bool_] | None] = lambda job, pair: None
    """Which tokens of a pair have no numbers."""
    jobs: list[ScoringJob] = field(default_factory=list)

    async def answer(self, job: ScoringJob) -> ScoringResult:
        validate_job(job, self.info)
        number_of_job = len(self.jobs)
        self.jobs.append(job)
        starts = np.concatenate([[0], np.cumsum(job.response_lengths)])
        columns: dict[str, list[NDArray[np.generic]]] = {}
        valid, missing = [], []
        for pair, (c, r) in enumerate(job.pairs.tolist()):
            context, response = job.contexts[c], job.responses[r]
            top = top_k_of(response, job.outputs.top_k)
            found: dict[str, NDArray[np.generic]] = {
                "sampled": number(context, response),
                "top_k_ids": top,
                "top_k_log_probs": number(context, top),
                "entropy": -number(context, response) / 10,
            }
            if job.token_ids is not None:
                found["given"] = number(context, job.token_ids[starts[r] : starts[r + 1]])
            gaps = self.missing(job, pair)
            if gaps is not None and gaps.any():
                missing.append(Missing(pair, "TEST"))
                for name, values in found.items():
                    values[gaps] = -1 if name == "top_k_ids" else np.nan
            valid.append(np.ones(len(response), bool) if gaps is None else ~gaps)
            for name, values in found.items():
                columns.setdefault(name, []).append(values)
        asked = {
            "sampled": job.outputs.sampled,
            "top_k_ids": job.outputs.top_k,
            "top_k_log_probs": job.outputs.top_k,
            "given": job.outputs.given,
            "entropy": job.outputs.entropy,
        }
        arrays = {name: np.concatenate(columns[name]) for name, wanted in asked.items() if wanted}
        revision = job.weights.revision if job.weights else self.info.weights_revision
        if self.revision_of is not None:
            revision = self.revision_of(number_of_job, job)
        return ScoringResult(
            job_id=job.id,
            pair_lengths=job.pair_lengths,
            scores=Scores(
                **arrays,  # type: ignore[arg-type]
                valid=np.concatenate(valid) if missing else None,
                missing=tuple(missing),
            ),
            weights_revision=revision,
            tokenizer_fingerprint=self.info.tokenizer_fingerprint,
            model_id="scripted",
            engine="script",
            engine_version="1",
            cost=Cost(job.tokens_naive, job.tokens_computed),
        )

    def limited(self, **limits: int) -> "Teacher":
        """The same teacher with other limits."""
        return replace(self, info=replace(self.info, **limits))


@contextmanager
def serve(teacher: Teacher, folder: Path) -> Iterator[str]:
    """Serves it on a unix socket in `folder`; gives the address."""
    service = ScriptedService(teacher.answer, teacher.info)
    with server_in_a_thread(service, folder / "teacher.sock") as address:
        yield address
