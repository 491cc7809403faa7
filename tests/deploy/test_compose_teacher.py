"""The teacher of the profile gpu: its command line on vLLM, with what a CPU needs added to it."""

import numpy as np
import pytest

from counterhint import ScoringClient, ScoringJob, pairs_array
from counterhint.credentials import Credentials
from tests.deploy.compose_processes import composition_of
from tests.deploy.compose_project import services

ON_A_CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


@pytest.mark.vllm
def test_the_teacher_of_the_profile_gpu_scores() -> None:
    variables = {
        "COUNTERHINT_TEACHER_MODEL": "recipes/tiny/teacher",
        "COUNTERHINT_TEACHER_DTYPE": "float32",
    }
    teacher = services("gpu", variables)["teacher"]
    teacher["environment"].update(ON_A_CPU)
    teacher["command"] += ["--engine-arg=enforce_eager=true", "--engine-arg=block_size=32"]
    with composition_of({"teacher": teacher}) as composition:
        composition.up("teacher")
        credentials = Credentials(
            token_file=composition.secrets / "dispatcher.token",
            tls_ca=composition.secrets / "ca.pem",
        )
        address = f"127.0.0.1:{composition.port('teacher', '50051')}"
        with ScoringClient(address, credentials=credentials) as client:
            info = client.get_teacher()
            job = ScoringJob(
                id="job",
                run_id="run",
                contexts=(np.arange(3, 40, dtype=np.int32),),
                responses=(np.arange(10, 20, dtype=np.int32),),
                pairs=pairs_array([(0, 0)]),
                tokenizer_fingerprint=info.tokenizer_fingerprint,
            )
            result = client.submit(job).result()
        assert info.engine == "vllm"
        sampled = result.pair(0).sampled
        assert sampled is not None
        assert (sampled < 0).all()
        assert composition.down() == {"teacher": 0}
