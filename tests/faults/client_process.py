"""A client in a process of its own.

`python -m tests.faults.client_process ADDRESS ID RUN TOKENS [CONTEXTS]` scores one job of
`make_job`, its response under so many contexts, and prints JSON: the scores, or the error.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from counterhint.client import ScoringClient
from counterhint.errors import CounterhintError
from counterhint.jobs import pairs_array
from tests.services.scripted_teacher import make_job


def main(arguments: Sequence[str]) -> None:
    address, job_id, run_id, tokens, *more = arguments
    contexts = int(more[0]) if more else 1
    with ScoringClient(address, timeout=240.0) as client:
        fingerprint = client.get_teacher().tokenizer_fingerprint
        job = replace(
            make_job(job_id, int(tokens), run_id, fingerprint),
            contexts=tuple(np.array(divmod(n, 64), dtype=np.int32) for n in range(contexts)),
            pairs=pairs_array([(context, 0) for context in range(contexts)]),
        )
        try:
            result = client.score(job)
        except CounterhintError as error:
            answer = {"code": error.code.name, "reason": error.reason, "message": error.message}
        else:
            assert result.scores.sampled is not None
            answer = {"scores": result.scores.sampled.tolist()}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
