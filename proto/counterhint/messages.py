"""Jobs, results and teachers ↔ their protobuf messages.

Decoding checks everything that needs no knowledge of the teacher: shapes, lengths, ranges of
indices. What depends on the teacher is in `counterhint.validation`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterhint.errors import EngineFailure, InvalidJob
from counterhint.jobs import (
    Cost,
    Missing,
    Outputs,
    Scores,
    ScoringJob,
    ScoringResult,
    TeacherInfo,
    Weights,
)
from counterhint.message_bounds import check_texts
from counterhint.tensors import decode_sequences, decode_tensor, encode_sequences, encode_tensor
from counterhint.top_k import decode_top_k, encode_top_k
from counterhint.v1 import scoring_pb2


def job_to_message(job: ScoringJob) -> scoring_pb2.ScoreRequest:
    """The message of a job."""
    return scoring_pb2.ScoreRequest(
        id=job.id,
        run_id=job.run_id,
        contexts=encode_sequences(job.contexts),
        responses=encode_sequences(job.responses),
        pairs=encode_tensor(job.pairs),
        outputs=scoring_pb2.Outputs(
            sampled=job.outputs.sampled,
            top_k=job.outputs.top_k,
            given=job.outputs.given,
            entropy=job.outputs.entropy,
        ),
        token_ids=None if job.token_ids is None else encode_tensor(job.token_ids),
        tokenizer_fingerprint=job.tokenizer_fingerprint,
        weights=None if job.weights is None else weights_to_message(job.weights),
        priority=job.priority,
    )


def weights_to_message(weights: Weights) -> scoring_pb2.Weights:
    """The message of a weights name."""
    return scoring_pb2.Weights(
        name=weights.name, revision=weights.revision, uri=weights.uri, sha256=weights.sha256
    )


def weights_from_message(message: scoring_pb2.Weights) -> Weights:
    """The weights name of a message."""
    return Weights(message.name, message.revision, message.uri, message.sha256)


def job_from_message(message: scoring_pb2.ScoreRequest) -> ScoringJob:
    """The job of a message; its arrays are views of the message's bytes.

    Raises:
        InvalidJob: no id, no context, no response, no pair, an empty context or response, a pair
            out of range, nothing asked for, a text that is too long, or a tensor that does not add
            up.
    """
    if not message.id:
        raise InvalidJob("a job needs an id", reason="NO_ID")
    check_texts(message)
    contexts = decode_sequences(message.contexts, "contexts")
    responses = decode_sequences(message.responses, "responses")
    for kind, sequences in (("context", contexts), ("response", responses)):
        if not sequences:
            raise InvalidJob(f"a job needs at least one {kind}", reason=f"NO_{kind.upper()}")
        for index, sequence in enumerate(sequences):
            if not len(sequence):
                raise InvalidJob(
                    f"{kind} {index} is empty",
                    reason=f"EMPTY_{kind.upper()}",
                    details={kind: index},
                )
    outputs = message.outputs
    if not (outputs.sampled or outputs.top_k or outputs.given or outputs.entropy):
        raise InvalidJob("the job asks for no output", reason="NO_OUTPUT")
    job = ScoringJob(
        id=message.id,
        run_id=message.run_id,
        contexts=contexts,
        responses=responses,
        pairs=_decode_pairs(message.pairs, len(contexts), len(responses)),
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        outputs=Outputs(
            sampled=outputs.sampled,
            top_k=outputs.top_k,
            given=outputs.given,
            entropy=outputs.entropy,
        ),
        token_ids=(
            decode_tensor(message.token_ids, "token_ids") if message.HasField("token_ids") else None
        ),
        weights=(weights_from_message(message.weights) if message.HasField("weights") else None),
        priority=message.priority,
    )
    _check_given_ids(job)
    return job


def _decode_pairs(message: scoring_pb2.Tensor, contexts: int, responses: int) -> NDArray[np.int32]:
    pairs = decode_tensor(message, "pairs")
    if pairs.dtype != np.int32 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InvalidJob(
            f"pairs must be int32 [P, 2], not {pairs.dtype} {list(pairs.shape)}",
            reason="MALFORMED_TENSOR",
            details={"tensor": "pairs"},
        )
    if not len(pairs):
        raise InvalidJob("a job needs at least one pair", reason="NO_PAIR")
    outside = ((pairs < 0) | (pairs >= np.array([contexts, responses]))).any(axis=1)
    if outside.any():
        index = int(outside.argmax())
        raise InvalidJob(
            f"pair {index} is {pairs[index].tolist()}, but there are {contexts} contexts and "
            f"{responses} responses",
            reason="PAIR_OUT_OF_RANGE",
            details={"pair": index},
        )
    return pairs


def _check_given_ids(job: ScoringJob) -> None:
    rows = int(job.response_lengths.sum())
    given = job.token_ids
    if job.outputs.given != (given is not None):
        raise InvalidJob(
            "outputs.given and token_ids go together: both or neither",
            reason="GIVEN_WITHOUT_IDS",
        )
    if given is not None and (
        given.dtype != np.int32 or given.ndim != 2 or given.shape[0] != rows or not given.shape[1]
    ):
        raise InvalidJob(
            f"token_ids must be int32 [{rows}, n], a row for each response token, not "
            f"{given.dtype} {list(given.shape)}",
            reason="MALFORMED_TENSOR",
            details={"tensor": "token_ids"},
        )


def scores_to_message(scores: Scores) -> scoring_pb2.Scores:
    """The message of scores.

    Raises:
        EngineFailure: top-k numbers that are no log probs or no token ids.
    """
    message = scoring_pb2.Scores(
        missing=[scoring_pb2.Missing(pair=m.pair, reason=m.reason) for m in scores.missing]
    )
    if scores.top_k_ids is not None and scores.top_k_log_probs is not None:
        message.top_k.CopyFrom(encode_top_k(scores.top_k_ids, scores.top_k_log_probs))
    for name in ("sampled", "given", "entropy", "valid"):
        array = getattr(scores, name)
        if array is not None:
            getattr(message, name).CopyFrom(encode_tensor(array))
    return message


def result_to_message(result: ScoringResult) -> scoring_pb2.ScoreResponse:
    """The message of a result.

    Raises:
        EngineFailure: top-k numbers that are no log probs or no token ids.
    """
    message = scoring_pb2.ScoreResponse(
        id=result.job_id,
        weights_revision=result.weights_revision,
        tokenizer_fingerprint=result.tokenizer_fingerprint,
        model_id=result.model_id,
        engine=result.engine,
        engine_version=result.engine_version,
        cost=scoring_pb2.Cost(
            tokens_naive=result.cost.tokens_naive,
            tokens_computed=result.cost.tokens_computed,
            engine_seconds=result.cost.engine_seconds,
            wait_seconds=result.cost.wait_seconds,
            pairs_cached=result.cost.pairs_cached,
            tokens_cached=result.cost.tokens_cached,
        ),
    )
    message.scores.CopyFrom(scores_to_message(result.scores))  # the constructor would parse them
    return message


def result_from_message(message: scoring_pb2.ScoreResponse, job: ScoringJob) -> ScoringResult:
    """The result of a message, checked against the job it answers.

    Raises:
        EngineFailure: another job's id, an output that is absent or of another shape than the job
            asks for, a number that is not finite without being marked as missing, or one marked
            as missing that is a number or has no reason.
        InvalidJob: a tensor that does not add up.
    """
    if message.id != job.id:
        raise EngineFailure(
            f"asked for job {job.id!r}, but {message.id!r} was answered", reason="WRONG_JOB"
        )
    rows, outputs = int(job.pair_lengths.sum()), job.outputs
    expected: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {}
    if outputs.sampled:
        expected["sampled"] = (np.float32, (rows,))
    if outputs.top_k:
        expected["top_k_ids"] = (np.int32, (rows, outputs.top_k))
        expected["top_k_log_probs"] = (np.float32, (rows, outputs.top_k))
    if job.token_ids is not None:
        expected["given"] = (np.float32, (rows, job.token_ids.shape[1]))
    if outputs.entropy:
        expected["entropy"] = (np.float32, (rows,))
    if message.scores.HasField("valid"):
        expected["valid"] = (np.bool_, (rows,))
    arrays: dict[str, NDArray[Any]] = {}
    if outputs.top_k:
        arrays["top_k_ids"], arrays["top_k_log_probs"] = decode_top_k(
            message.scores.top_k, "scores.top_k"
        )
    for name, (dtype, shape) in expected.items():
        if name not in arrays:
            arrays[name] = decode_tensor(getattr(message.scores, name), f"scores.{name}")
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise EngineFailure(
                f"scores.{name} is {array.dtype} {list(array.shape)}, but job {job.id!r} asks for "
                f"{np.dtype(dtype)} {list(shape)}",
                reason="MALFORMED_SCORES",
                details={"job": job.id, "tensor": name},
            )
    scores = Scores(
        **arrays, missing=tuple(Missing(m.pair, m.reason) for m in message.scores.missing)
    )
    check_finite(scores)
    _check_missing(scores, job.pair_lengths)
    return ScoringResult(
        job_id=message.id,
        pair_lengths=job.pair_lengths,
        scores=scores,
        weights_revision=message.weights_revision,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        model_id=message.model_id,
        engine=message.engine,
        engine_version=message.engine_version,
        cost=cost_from_message(message.cost),
    )


def check_finite(scores: Scores) -> None:
    """Refuses numbers that are not finite where `valid` says that they count.

    Raises:
        EngineFailure: with the output and the first bad row.
    """
    for name in ("sampled", "top_k_log_probs", "given", "entropy"):
        array = getattr(scores, name)
        if array is None:
            continue
        bad = ~np.isfinite(array)
        bad = bad.any(axis=1) if bad.ndim == 2 else bad
        if scores.valid is not None:
            bad = bad & scores.valid
        if bad.any():
            row = int(bad.argmax())
            raise EngineFailure(
                f"the engine gave a number that is not finite: {name}, row {row}",
                reason="NOT_FINITE",
                details={"output": name, "row": row},
            )


def _check_missing(scores: Scores, pair_lengths: NDArray[np.int64]) -> None:
    rows = int(pair_lengths.sum())
    invalid = np.zeros(rows, dtype=np.bool_) if scores.valid is None else ~scores.valid
    for name in ("sampled", "top_k_log_probs", "given", "entropy"):
        array = getattr(scores, name)
        if array is not None and not np.isnan(array[invalid]).all():
            numbers = ~np.isnan(array.reshape(rows, -1)).all(axis=1)
            row = int((invalid & numbers).argmax())
            raise EngineFailure(
                f"the engine gave a number for a position it calls missing: {name}, row {row}",
                reason="MALFORMED_SCORES",
                details={"output": name, "row": row},
            )
    pairs = np.unique(np.repeat(np.arange(len(pair_lengths)), pair_lengths)[invalid]).tolist()
    explained = sorted({missing.pair for missing in scores.missing})
    if pairs != explained:
        raise EngineFailure(
            f"scores of {_named(pairs)} are missing, but reasons are given for {_named(explained)}",
            reason="MALFORMED_SCORES",
            details={"missing": pairs, "explained": explained},
        )


def _named(pairs: Sequence[int]) -> str:
    return ", ".join(f"pair {pair}" for pair in pairs) or "no pair"


def teacher_to_message(teacher: TeacherInfo) -> scoring_pb2.GetTeacherResponse:
    """The message of a teacher's description."""
    return scoring_pb2.GetTeacherResponse(
        **{name: getattr(teacher, name) for name in TeacherInfo.__dataclass_fields__}
    )


def teacher_from_message(message: scoring_pb2.GetTeacherResponse) -> TeacherInfo:
    """The teacher's description of a message."""
    fields = {name: getattr(message, name) for name in TeacherInfo.__dataclass_fields__}
    return TeacherInfo(**{**fields, "outputs": tuple(message.outputs)})


def cost_from_message(message: scoring_pb2.Cost) -> Cost:
    """What a job cost, from the wire."""
    return Cost(
        tokens_naive=message.tokens_naive,
        tokens_computed=message.tokens_computed,
        engine_seconds=message.engine_seconds,
        wait_seconds=message.wait_seconds,
        pairs_cached=message.pairs_cached,
        tokens_cached=message.tokens_cached,
    )
