import json
from dataclasses import asdict

import numpy as np
import pytest

from counterhint.command_line import run_command
from teacher_server.bench.job import GroupShape, group_job
from teacher_server.bench.wire import bench_wire, decode_json, encode_json, random_result
from teacher_server.cli import BenchWire

QWEN_VOCABULARY = 151_936
PAIR_BYTES = 64


def test_a_groups_replies_keep_the_bounds_of_the_wire() -> None:
    figures = bench_wire(GroupShape(8, 4, 600, 200, 16), QWEN_VOCABULARY, repeats=1)
    assert (figures.pairs, figures.response_tokens) == (40, 8000)
    stamps = PAIR_BYTES * figures.pairs
    assert figures.sampled.bytes <= 4 * 8000 + stamps
    assert figures.top_k.bytes <= (4 + 6 * 16) * 8000 + stamps
    assert (figures.sampled.entry_bytes, figures.top_k.entry_bytes) == (0, 6)
    assert figures.request_bytes <= 4 * 8 * (600 + 200) + stamps


def test_what_a_reply_costs_once_does_not_grow_with_its_pairs() -> None:
    figures = bench_wire(GroupShape(8, 4, 4, 200, 16), QWEN_VOCABULARY, repeats=1)
    for reply in (figures.sampled, figures.top_k):
        assert reply.one_pair_overhead_bytes <= reply.overhead_bytes
        assert reply.overhead_bytes <= reply.one_pair_overhead_bytes + 16  # longer varints


def test_the_figures_hang_together() -> None:
    figures = bench_wire(GroupShape(3, 1, 5, 7, 4), 1000, repeats=1)
    assert (figures.pairs, figures.response_tokens) == (6, 42)
    for reply, entries in ((figures.sampled, 0), (figures.top_k, 4)):
        assert reply.entry_bytes == (5 if entries else 0)
        assert reply.bytes == (4 + 5 * entries) * 42 + reply.overhead_bytes
        assert reply.bytes_per_token == reply.bytes / 42
        assert reply.bytes_ratio == reply.json_bytes / reply.bytes
        assert reply.encode_ratio == reply.json_encode_seconds / reply.encode_seconds
        assert reply.decode_ratio == reply.json_decode_seconds / reply.decode_seconds


@pytest.mark.parametrize("top_k", [0, 1, 6])
def test_the_json_carries_the_same_numbers(top_k: int) -> None:
    job = group_job(GroupShape(4, 1, 5, 9, top_k), 6)
    scores = random_result(job, vocab_size=6).scores
    bodies = encode_json(job, random_result(job, vocab_size=6))
    assert len(bodies) == len(job.pairs)
    ids, log_probs = decode_json(bodies)
    tokens = np.concatenate([job.responses[response] for response in job.pairs[:, 1]])
    np.testing.assert_array_equal(ids[:, 0], tokens)
    np.testing.assert_array_equal(log_probs[:, 0], scores.sampled)
    if top_k:
        np.testing.assert_array_equal(ids, scores.top_k_ids)
        np.testing.assert_array_equal(log_probs, scores.top_k_log_probs)
    first = json.loads(bodies[0])[0][str(tokens[0])]
    assert first == {"logprob": float(log_probs[0, 0]), "rank": 1, "decoded_token": " word"}


SMALL = ["--group", "3", "--wrong", "1", "--context-tokens", "5", "--response-tokens", "7"]


def test_the_command_prints_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--top-k", "4", "--repeats", "1", "--json"]
    assert run_command(BenchWire, "counterhint bench wire", arguments) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = asdict(bench_wire(GroupShape(3, 1, 5, 7, 4), QWEN_VOCABULARY, repeats=1))
    assert set(figures) == set(expected)
    for reply in ("sampled", "top_k"):
        assert set(figures[reply]) == set(expected[reply])
        assert figures[reply]["bytes"] == expected[reply]["bytes"]


def test_the_command_prints_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--top-k", "4", "--repeats", "1"]
    assert run_command(BenchWire, "counterhint bench wire", arguments) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["pairs"] == ["6"]
    assert rows["entry_bytes"] == ["0", "6"]
    assert rows["a"] == ["reply", "with", "sampled", "and", "top", "4"]


def test_a_top_k_above_the_vocabulary_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--top-k", "9", "--vocab-size", "8"]
    assert run_command(BenchWire, "counterhint bench wire", arguments) == 2
    assert "--top-k 9 is above --vocab-size 8" in capsys.readouterr().err
