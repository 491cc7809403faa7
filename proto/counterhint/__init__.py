"""The contract between student trainers, queue services and teacher servers.

from counterhint import ScoringClient, ScoringJob, pairs_array

with ScoringClient("127.0.0.1:50051") as client:
    result = client.score(job)
    log_probs = result.pair(0).sampled
"""

from counterhint.client import AsyncScoringClient, ScoringClient
from counterhint.contrast import contrast, modulate, one_sided
from counterhint.credentials import Credentials
from counterhint.errors import CounterhintError
from counterhint.fingerprint import tokenizer_fingerprint
from counterhint.jobs import (
    Outputs,
    Scores,
    ScoringJob,
    ScoringResult,
    TeacherInfo,
    Weights,
    pairs_array,
)

__all__ = [
    "AsyncScoringClient",
    "CounterhintError",
    "Credentials",
    "Outputs",
    "Scores",
    "ScoringClient",
    "ScoringJob",
    "ScoringResult",
    "TeacherInfo",
    "Weights",
    "contrast",
    "modulate",
    "one_sided",
    "pairs_array",
    "tokenizer_fingerprint",
]
