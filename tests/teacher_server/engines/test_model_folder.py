"""What is refused before an engine loads anything."""

import shutil
from pathlib import Path

import pytest

from counterhint.errors import InputError
from teacher_server.engines.model_folder import check_model_folder, folder_name


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[8:]])
def test_damaged_safetensors_are_refused(model_folder, tmp_path, damage):
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    check_model_folder(folder)
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        InputError, match=r"safetensors are damaged .* copy the folder again"
    ) as refused:
        check_model_folder(folder)
    assert str(folder) in str(refused.value)


def test_a_folder_has_the_name_that_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "blobs" / "3f2a").mkdir(parents=True)
    (tmp_path / "qwen3").symlink_to("blobs/3f2a")
    monkeypatch.chdir(tmp_path / "blobs")
    names = {folder_name(Path(path)) for path in (tmp_path / "qwen3", "../qwen3", "./../qwen3/")}
    assert names == {"qwen3"}
    assert folder_name(Path()) == "blobs"
