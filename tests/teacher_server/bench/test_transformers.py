import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from teacher_server.bench.transformers import score_naively
from tests.teacher_server.jobs import plain_log_probs, random_job, tokens_of_pairs


def test_the_naive_way_gives_the_numbers_of_plain_forward_passes():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.25,
    )
    model = LlamaForCausalLM(config).eval()
    job = random_job([4, 19], [1, 8, 13], [(1, 2), (0, 0), (0, 1), (1, 0)])
    expected = plain_log_probs(model, job)[np.arange(23), tokens_of_pairs(job)]
    for bound in (1, 40, 1000):
        np.testing.assert_allclose(score_naively(model, job, bound), expected, atol=1e-4)
