"""Ranks that share a student and a sampling server: `python -m … MODEL ADDRESS WEIGHTS_DIR OUT`."""

import json
import sys
from pathlib import Path

import numpy as np

from student_trainer.forward import StudentForward
from student_trainer.models import StudentConfig, load_student
from student_trainer.ranks import Ranks
from student_trainer.rollouts.base import SamplingRequest
from student_trainer.rollouts.vllm_server import VllmServerSamplerConfig
from student_trainer.sharding import shard

PROMPTS = [np.array([3, first, 9], dtype=np.int32) for first in range(10, 16)]
REQUEST = SamplingRequest(group_size=2, max_new_tokens=20, temperature=1.0, seed=0)


def main(model: str, address: str, weights_dir: str, out: str) -> None:
    ranks = Ranks()
    student = load_student(StudentConfig(model=Path(model), device="cpu"), ranks)
    shard(StudentForward(student.model, gradient_checkpointing=False), student, ranks)
    config = VllmServerSamplerConfig(
        kind="vllm_server", addresses=(address,), weights_dir=Path(weights_dir)
    )
    rows = []
    with config.build(student) as sampler:
        for revision in (0, 1):
            sampler.load_weights(student.full_tensors(), revision)
            own = ranks.share(PROMPTS)
            for index, samples in sampler.sample_groups([prompt for _, prompt in own], REQUEST):
                rows += [
                    {
                        "rank": ranks.rank,
                        "revision": s.revision,
                        "prompt": own[index][0],
                        "token_ids": s.token_ids.tolist(),
                        "log_probs": s.log_probs.tolist(),
                    }
                    for s in samples
                ]
        gathered = ranks.gather_at_first(rows)
        if ranks.first:
            Path(out).write_text(json.dumps([row for part in gathered for row in part]))
        ranks.wait()
    ranks.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
