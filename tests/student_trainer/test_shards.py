import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from student_trainer.ranks import Ranks
from student_trainer.shards import load_shards, save_shards

TENSORS = {"a": torch.arange(12.0).reshape(4, 3), "b": torch.arange(5.0), "step": torch.tensor(7.0)}


def empty() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(value, -1.0) for name, value in TENSORS.items()}


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_rows_are_put_together_however_they_were_divided(sizes: list[int]) -> None:
    rows = sum(sizes)
    value = torch.randn(rows, 2, generator=torch.Generator().manual_seed(rows))
    with tempfile.TemporaryDirectory() as folder:
        first = 0
        for number, size in enumerate(sizes, start=1):
            part = value[first : first + size].contiguous()
            file = Path(folder) / f"x-{number:05d}-of-{len(sizes):05d}.safetensors"
            save_file({"w": part}, file, {"first_row_of_rows": json.dumps({"w": [first, rows]})})
            first += size
        found = torch.full_like(value, torch.nan)
        load_shards(Path(folder), "x", {"w": found})
    assert torch.equal(found, value)


def test_one_rank_writes_all(tmp_path: Path) -> None:
    save_shards(tmp_path, "x", TENSORS, Ranks())
    assert [file.name for file in tmp_path.iterdir()] == ["x-00001-of-00001.safetensors"]
    found = empty()
    load_shards(tmp_path, "x", found)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (4, 2)])
def test_another_shape_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_shards(tmp_path, "x", TENSORS, Ranks())
    with pytest.raises(ValueError, match=r"a in x-\S+ is of another shape"):
        load_shards(tmp_path, "x", empty() | {"a": torch.zeros(shape)})


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    save_shards(tmp_path, "x", TENSORS, Ranks())
    with pytest.raises(ValueError, match=r"c is missing in x-\*"):
        load_shards(tmp_path, "x", empty() | {"c": torch.zeros(1)})
    rows = {"a": [0, 4], "b": [0, 5], "step": [0, 1]}
    parts = {"a": TENSORS["a"][:2].contiguous(), "b": TENSORS["b"], "step": TENSORS["step"]}
    file = tmp_path / "y-00001-of-00002.safetensors"
    save_file(parts, file, {"first_row_of_rows": json.dumps(rows)})
    with pytest.raises(ValueError, match=r"a is missing in y-\*"):
        load_shards(tmp_path, "y", empty())


def test_a_damaged_file_is_no_safetensors_file(tmp_path: Path) -> None:
    save_shards(tmp_path, "x", TENSORS, Ranks())
    file = tmp_path / "x-00001-of-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        load_shards(tmp_path, "x", empty())
