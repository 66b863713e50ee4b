"""A model is the same wherever it is: a directory, an object store, an HTTP server, a hub; damage is found."""

from __future__ import annotations

import logging

import pytest
import torch
from hub_server import COMMIT, HubServer
from storage_fakes import BlobServer

from headrace.errors import CheckpointError, ConfigError
from headrace.model import GPT, GPTConfig, fetch_model, load_model, to_hf
from headrace.model.weights import location
from headrace.paths import model_name
from headrace.storage import DamagedFileError, MemoryBlob, open_blob
from headrace.tokens.byte import ByteTokenizer
from headrace.training import import_model

SHAPE = GPTConfig(
    num_hidden_layers=2, hidden_size=24, num_attention_heads=3, vocab_size=257, max_position_embeddings=16
)


@pytest.fixture(scope="module")
def model():
    return GPT(SHAPE, seed=3).eval()


@pytest.fixture(scope="module")
def hf(model, tmp_path_factory):
    return to_hf(model, ByteTokenizer(), tmp_path_factory.mktemp("hf") / "small")


@pytest.fixture(scope="module")
def run(hf, tmp_path_factory):
    return import_model(hf, tmp_path_factory.mktemp("run") / "small").out


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(location, "_caches", {})
    return tmp_path / "cache" / "models"


def copy(directory, url):
    blob = open_blob(url)
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.name != ".lock":
            blob.put(path.relative_to(directory).as_posix(), path.read_bytes())
    return url


def assert_is(url, model):
    got, tokenizer = load_model(url)
    assert got.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(got.parameters(), model.parameters(), strict=True))
    assert tokenizer.vocab_size == 257


@pytest.mark.parametrize("kind", ["hf", "run"])
def test_a_model_of_a_store_is_fetched_once_and_equals_the_local_one(request, kind, model, cache):
    url = copy(request.getfixturevalue(kind), f"memory://{request.node.nodeid}")
    assert_is(url, model)
    first = fetch_model(url)
    assert first.parent == cache
    MemoryBlob(request.node.nodeid).delete("model.safetensors") if kind == "run" else None
    assert fetch_model(url) == first


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["hf", "run"])
def test_a_model_of_an_s3_server_equals_the_local_one(s3_url, request, kind, model):
    assert_is(copy(request.getfixturevalue(kind), s3_url), model)


def test_a_hugging_face_directory_is_read_from_an_http_server(hf, model, request):
    copy(hf, f"memory://{request.node.nodeid}")
    with BlobServer(MemoryBlob(request.node.nodeid)) as server:
        server.trouble = lambda number, path: 503 if number % 7 == 3 else None
        assert_is(server.url, model)


def test_a_run_on_an_http_server_is_refused_with_the_reason(run, request):
    copy(run, f"memory://{request.node.nodeid}")
    with (
        BlobServer(MemoryBlob(request.node.nodeid)) as server,
        pytest.raises(ConfigError, match="does not list names"),
    ):
        fetch_model(server.url)


def test_a_new_version_of_a_model_is_fetched_again(request, hf, tmp_path):
    url = copy(hf, f"memory://{request.node.nodeid}")
    first = fetch_model(url)
    copy(to_hf(GPT(SHAPE, seed=4).eval(), ByteTokenizer(), tmp_path / "other"), url)
    assert_is(url, GPT(SHAPE, seed=4).eval())
    assert fetch_model(url) != first


def test_a_damaged_checkpoint_of_a_store_is_passed_over_for_an_older_one(request, run, model, caplog):
    url = copy(run, f"memory://{request.node.nodeid}")
    blob = MemoryBlob(request.node.nodeid)
    for name in blob.list("checkpoints/"):
        blob.put(name.replace("step-00000000", "step-00000007"), blob.get(name))
    damaged = next(n for n in blob.list("checkpoints/step-00000007/") if n.endswith(".distcp"))
    blob.put(damaged, bytes(len(blob.get(damaged))))
    assert_is(f"{url}@0", model)
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3; there are 0, 7\."):
        fetch_model(f"{url}@3")
    with pytest.raises(CheckpointError, match="has no best checkpoint: it was not evaluated"):
        fetch_model(f"{url}@best")
    with pytest.raises(DamagedFileError, match="XXH3-128"):
        fetch_model(f"{url}@7")
    with caplog.at_level(logging.WARNING, logger="headrace"):
        assert_is(url, model)
    assert damaged in caplog.text
    assert "This checkpoint is passed over for an older one" in caplog.text
    blob.delete(next(n for n in blob.list("checkpoints/step-00000000/") if n.endswith("manifest.json")))
    with pytest.raises(CheckpointError, match="no whole checkpoint in it"):
        fetch_model(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "memory://nothing-there",
            r"neither a run .*, a Hugging Face directory .* nor an adapter",
        ),
        ("ftp://host/model", "expected a local directory, s3://"),
        ("hf://only-a-name", r"expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
    ],
)
def test_what_is_no_model_is_refused_by_name(url, message):
    with pytest.raises(ConfigError, match=message):
        fetch_model(url)


def test_a_bound_that_is_no_number_or_too_small_is_refused(request, hf, monkeypatch):
    url = copy(hf, f"memory://{request.node.nodeid}")
    monkeypatch.setenv("HEADRACE_CACHE_DIR_BYTES", "many")
    with pytest.raises(ConfigError, match="HEADRACE_CACHE_DIR_BYTES is 'many'"):
        fetch_model(url)
    monkeypatch.setenv("HEADRACE_CACHE_DIR_BYTES", "1000")
    with pytest.raises(ConfigError, match=r"may hold 1,000\. Raise HEADRACE_CACHE_DIR_BYTES"):
        fetch_model(url)


def test_a_model_has_the_last_part_of_its_place_as_its_name(tmp_path):
    assert model_name("hf://owner/name@v1") == "name"
    assert model_name("s3://bucket/models/a/") == "a"
    assert model_name(tmp_path / "b") == "b"


@pytest.fixture
def hub(hf, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    files = {path.name: path.read_bytes() for path in hf.iterdir()}
    with HubServer("owner/small", files | {"pytorch_model.bin": b"a pickle"}) as server:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_model_of_a_hub_is_fetched_without_pickles_and_equals_the_local_one(hub, model, revision):
    assert_is(f"hf://owner/small{revision}", model)
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_a_file_of_a_hub_with_other_bytes_than_its_hash_is_fetched_again_or_refused(hub, model, caplog):
    good = hub.files["model.safetensors"]
    path = fetch_model("hf://owner/small")
    damaged = (path / "model.safetensors").resolve()
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with caplog.at_level(logging.WARNING, logger="headrace"):
        assert_is("hf://owner/small", model)
    assert "does not have the hub's hash; it is fetched again" in caplog.text
    hub.damaged["model.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    damaged.write_bytes(hub.damaged["model.safetensors"])
    with pytest.raises(
        ConfigError, match=r"model.safetensors: other bytes than the hub's hash, also fetched again"
    ):
        fetch_model("hf://owner/small")


def test_a_repository_that_a_hub_does_not_have_is_refused_with_the_cure(hub):
    with pytest.raises(ConfigError, match=r"no such repository, or a private one: .*HF_TOKEN"):
        fetch_model("hf://owner/other")


def test_a_model_that_was_fetched_is_there_while_the_hub_is_down(hub, model, monkeypatch):
    fetch_model("hf://owner/small")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # no server listens there
    assert_is("hf://owner/small", model)
    with pytest.raises(
        ConfigError, match=r"hf://owner/other: cannot be fetched: .* Does the hub answer \(HF_ENDPOINT"
    ):
        fetch_model("hf://owner/other")
