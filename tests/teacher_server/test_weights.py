import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from counterhint import Weights
from counterhint.errors import WeightsUnavailable
from counterhint.jobs import ADAPTER_METADATA
from teacher_server.engines.model_folder import model_outline
from teacher_server.weights import LoadedWeights, fit_to_model, is_adapter, read_weights
from tests.tiny_models import write_tiny_llama


def named(path: Path, revision: str = "1") -> Weights:
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "0" * 64
    return Weights("run", revision, path.as_uri(), digest)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "allowed" / "a b.safetensors"
    path.parent.mkdir()
    save_file({"x": torch.arange(6.0).reshape(2, 3)}, path)
    return path


def reason(weights: Weights, *roots: Path) -> str:
    with pytest.raises(WeightsUnavailable) as refused:
        read_weights(weights, roots)
    assert repr(weights.revision) in refused.value.message
    return refused.value.reason


def test_a_file_of_an_allowed_root_is_read(file):
    content = read_weights(named(file), [file.parent])
    torch.testing.assert_close(content.tensors["x"], torch.arange(6.0).reshape(2, 3))
    assert content.adapter is None


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("a%00b.safetensors", "WEIGHTS_NOT_ALLOWED"),
        ("loop.safetensors", "WEIGHTS_NOT_ALLOWED"),
        (f"{'x' * 300}.safetensors", "WEIGHTS_NOT_FOUND"),
        (f"{'x/' * 2100}x.safetensors", "WEIGHTS_NOT_FOUND"),
        ("folder.safetensors", "WEIGHTS_NOT_FOUND"),
    ],
)
def test_addresses_that_the_file_system_chokes_on_are_refused(tmp_path, name, refused):
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    weights = Weights("run", "1", f"{tmp_path.as_uri()}/{name}", "0" * 64)
    assert reason(weights, tmp_path) == refused


@pytest.mark.parametrize("uri", ["file://[::1/x.safetensors", "file://\u2100/x.safetensors"])
def test_addresses_that_are_none_are_refused(tmp_path, uri):
    assert reason(Weights("run", "1", uri, "0" * 64), tmp_path) == "WEIGHTS_NOT_ALLOWED"


def test_the_metadata_make_a_file_an_adapter(file):
    save_file({"x": torch.ones(1)}, file, {ADAPTER_METADATA: '{"r": 4}', "format": "pt"})
    assert read_weights(named(file), [file.parent]).adapter == {"r": 4}


def test_the_header_alone_tells_an_adapter(file):
    assert not is_adapter(named(file), [file.parent])
    save_file({"x": torch.ones(1)}, file, {ADAPTER_METADATA: "{}"})
    assert is_adapter(named(file), [file.parent])
    file.write_bytes(b"no safetensors")
    with pytest.raises(WeightsUnavailable, match="not a safetensors file"):
        is_adapter(named(file), [file.parent])
    with pytest.raises(WeightsUnavailable, match="--weights-root"):
        is_adapter(named(file), [])


@pytest.mark.parametrize("settings", ["{", "4"])
def test_settings_that_are_no_json_object_are_refused(file, settings):
    save_file({"x": torch.ones(1)}, file, {ADAPTER_METADATA: settings})
    assert reason(named(file), file.parent) == "WEIGHTS_INCOMPATIBLE"


def test_files_elsewhere_are_not_allowed(file, tmp_path):
    outside = tmp_path / "b.safetensors"
    outside.write_bytes(file.read_bytes())
    link = file.parent / "link.safetensors"
    link.symlink_to(outside)
    dots = Weights("run", "1", f"file://{file.parent}/../b.safetensors", named(outside).sha256)
    web = Weights("run", "1", "https://example.org/a.safetensors", "0")
    for weights in (named(outside), named(link), dots, web):
        assert reason(weights, file.parent) == "WEIGHTS_NOT_ALLOWED"
    assert reason(named(file)) == "WEIGHTS_NOT_ALLOWED"


def test_a_link_that_leads_into_a_root_is_allowed(file, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    assert "x" in read_weights(named(link), [file.parent]).tensors


def test_only_safetensors_are_read(file):
    pickled = file.parent / "weights.bin"
    torch.save({"x": torch.zeros(1)}, pickled)
    disguised = pickled.rename(file.parent / "weights.safetensors")
    assert reason(named(pickled), file.parent) == "WEIGHTS_NOT_ALLOWED"
    assert reason(named(disguised), file.parent) == "WEIGHTS_INCOMPATIBLE"


def test_a_missing_file_and_another_hash_are_told_apart(file):
    assert reason(named(file.parent / "no.safetensors"), file.parent) == "WEIGHTS_NOT_FOUND"
    other = Weights("run", "1", file.as_uri(), "0" * 64)
    assert reason(other, file.parent) == "WEIGHTS_HASH_MISMATCH"
    assert reason(Weights("run", "1", file.as_uri(), ""), file.parent) == "WEIGHTS_HASH_MISMATCH"


def test_another_hash_is_refused_without_telling_the_right_one(file):
    """Who knows a file's hash may use it: nobody else is to learn it."""
    with pytest.raises(WeightsUnavailable) as refused:
        read_weights(Weights("run", "1", file.as_uri(), "0" * 64), [file.parent])
    assert named(file).sha256 not in f"{refused.value} {refused.value.details}"


@pytest.mark.parametrize("outline", [False, True])
@pytest.mark.parametrize("damage", ["absent", "shape", "surplus", "untied", "not finite"])
def test_tensors_must_be_those_of_the_model(tmp_path, damage, outline):
    model = write_tiny_llama(tmp_path)
    if outline:
        model = model_outline(tmp_path, "float32")
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    if damage == "absent":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:, :-1]
    elif damage == "not finite":
        tensors[name][0, 0] = torch.nan
    elif damage == "surplus":
        tensors["model.layers.9.weight"] = torch.zeros(1)
    else:
        name = "lm_head.weight"
        tensors[name] = tensors["model.embed_tokens.weight"] + 1
    with pytest.raises(WeightsUnavailable) as refused:
        fit_to_model(tensors, model, Weights("run", "1", "file:///x", ""))
    assert refused.value.reason == "WEIGHTS_INCOMPATIBLE"
    assert ("model.layers.9.weight" if damage == "surplus" else name) in refused.value.message


@pytest.mark.parametrize("kept", [["lm_head.weight"], ["model.embed_tokens.weight"], None])
def test_tied_tensors_may_come_once_or_as_equals(tmp_path, kept):
    model = write_tiny_llama(tmp_path)
    names = ["lm_head.weight", "model.embed_tokens.weight"]
    tensors = {n: t + 1 for n, t in model.state_dict().items() if n not in names}
    embedding = model.get_input_embeddings().weight.detach() + 1
    tensors |= dict.fromkeys(kept or names, embedding)
    for fitting in (model, model_outline(tmp_path, "float32")):
        fitted = fit_to_model(tensors, fitting, Weights("run", "1", "file:///x", ""))
        assert set(fitted) == set(model.state_dict())
        for name in names:
            torch.testing.assert_close(fitted[name], embedding)


def test_the_least_recently_used_weights_go_first():
    read: list[str] = []

    def prepare(weights: Weights) -> Callable[[], float]:
        if weights.revision == "bad":
            raise WeightsUnavailable("bad", reason="WEIGHTS_NOT_FOUND")
        read.append(weights.revision)
        return lambda: float(weights.revision)

    loaded = LoadedWeights(2, prepare)

    def get(revision: str) -> float:
        return loaded.get(Weights("run", revision, f"file:///{revision}", "0"))

    assert [get(r) for r in ("1", "2", "1", "3", "1", "2")] == [1, 2, 1, 3, 1, 2]
    assert read == ["1", "2", "3", "2"]
    assert len(loaded) == 2
    with pytest.raises(WeightsUnavailable):
        get("bad")
    get("1")
    get("2")
    assert read == ["1", "2", "3", "2"]
