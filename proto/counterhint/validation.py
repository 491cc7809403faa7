"""Whether a teacher can score a job at all: asked by the intake and again by the teacher."""

from counterhint.channel import LARGEST_REPLY
from counterhint.errors import InvalidJob, Overloaded, TokenizerMismatch
from counterhint.jobs import ScoringJob, TeacherInfo
from counterhint.tensors import TokenIds


def validate_job(job: ScoringJob, teacher: TeacherInfo, *, may_be_split: bool = False) -> None:
    """Refuses a job that this teacher can never score.

    Args:
        job: the job.
        teacher: the teacher, or what several of them have in common.
        may_be_split: whether the job can be split between contexts on its way, so that only each
            context's share must keep the teacher's bound.

    Raises:
        TokenizerMismatch: the job's ids were made with another tokenizer.
        InvalidJob: an output that the teacher cannot give, a token id outside the vocabulary, a
            pair longer than the model takes, or more top-k entries than the teacher gives.
        Overloaded: the job is larger than the teacher's bound, or its scores than a message.
    """
    if job.tokenizer_fingerprint != teacher.tokenizer_fingerprint:
        raise TokenizerMismatch(job.tokenizer_fingerprint, teacher.tokenizer_fingerprint)
    for name in job.outputs.names:
        if name not in teacher.outputs:
            raise InvalidJob(
                f"the job asks for {name}, but the teacher (engine {teacher.engine} "
                f"{teacher.engine_version}) gives {', '.join(teacher.outputs) or 'nothing'}: do "
                "without it, or serve a teacher that gives it",
                reason="OUTPUT_UNSUPPORTED",
                details={
                    "output": name,
                    "engine": teacher.engine,
                    "supported": ",".join(teacher.outputs),
                },
            )
    if job.outputs.top_k > teacher.max_top_k:
        raise InvalidJob(
            f"top_k is {job.outputs.top_k}, but the teacher gives at most {teacher.max_top_k}",
            reason="TOP_K_TOO_LARGE",
            details={"top_k": job.outputs.top_k, "max_top_k": teacher.max_top_k},
        )
    check_token_ids(job, teacher.vocab_size)
    lengths = job.context_lengths[job.pairs[:, 0]] + job.pair_lengths
    if (longest := int(lengths.max())) > teacher.max_model_len:
        pair = int(lengths.argmax())
        context, response = job.pairs[pair].tolist()
        raise InvalidJob(
            f"pair {pair} (context {context} of {job.context_lengths[context]} tokens + response "
            f"{response} of {job.response_lengths[response]}) is {longest} tokens long, but the "
            f"teacher takes at most {teacher.max_model_len}: shorten prompts or responses, or "
            "serve a teacher that takes more",
            reason="PAIR_TOO_LONG",
            details={"pair": pair, "tokens": longest, "max_model_len": teacher.max_model_len},
        )
    if may_be_split:
        _check_context_shares(job, teacher.max_job_tokens)
    elif job.tokens_computed > teacher.max_job_tokens:
        raise Overloaded(
            f"the job takes {job.tokens_computed} tokens, but the teacher's bound is "
            f"{teacher.max_job_tokens}: split it by context, or raise the bound",
            reason="JOB_TOO_LARGE",
            details={"tokens": job.tokens_computed, "max_job_tokens": teacher.max_job_tokens},
        )
    if job.reply_bytes > LARGEST_REPLY:
        raise Overloaded(
            f"the scores of job {job.id!r} take {job.reply_bytes} bytes, but a reply holds at most "
            f"{LARGEST_REPLY}: split the job, or ask for a smaller top_k",
            reason="REPLY_TOO_LARGE",
            details={"bytes": job.reply_bytes, "max_bytes": LARGEST_REPLY},
        )


def check_token_ids(job: ScoringJob, vocab_size: int) -> None:
    """Refuses a job with ids outside the vocabulary.

    Raises:
        InvalidJob: there is one in a context, in a response, or among the given ids.
    """
    for kind, sequences in (("context", job.contexts), ("response", job.responses)):
        for index, sequence in enumerate(sequences):
            _check_ids(sequence, f"{kind} {index}", vocab_size)
    if job.token_ids is not None:
        _check_ids(job.token_ids.reshape(-1), "token_ids", vocab_size)


def _check_context_shares(job: ScoringJob, max_tokens: int) -> None:
    if (largest := int(job.context_shares.max())) > max_tokens:
        context = int(job.context_shares.argmax())
        raise Overloaded(
            f"context {context} and the responses read after it take {largest} tokens, but the "
            f"teacher's bound is {max_tokens} and a job is split between contexts only: send the "
            "context with fewer responses a job, or raise the bound",
            reason="JOB_TOO_LARGE",
            details={"context": context, "tokens": largest, "max_job_tokens": max_tokens},
        )


def _check_ids(ids: TokenIds, name: str, vocab_size: int) -> None:
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        position = int(outside.argmax())
        raise InvalidJob(
            f"{name}: token id {ids[position]} at position {position} is outside the vocabulary "
            f"of {vocab_size}",
            reason="TOKEN_ID_OUT_OF_RANGE",
            details={"where": name, "position": position, "vocab_size": vocab_size},
        )
