"""The same units on Ray: same bytes, also when an actor is killed."""

import os
import signal

import psutil
import pytest

from headrace.errors import ConfigError, DocumentError
from headrace.ingestion import JobOptions, OperatorOptions, ingest

SMALL = {"job": JobOptions(shard_text_bytes=20_000)}


@pytest.fixture(scope="module")
def ray():
    """A Ray of two cores, on this machine, for all tests of this file."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    yield ray
    ray.shutdown()


def test_on_ray_the_bytes_are_the_same_and_a_killed_actor_is_replaced(
    ray, tmp_path, make_documents, write_jsonl, tree, tokenizer_json
):
    files = [
        write_jsonl(tmp_path / "a.jsonl.gz", make_documents(300, seed=1)),
        write_jsonl(tmp_path / "b.jsonl", make_documents(300, seed=2)),
    ]
    options = {"tokenizer": tokenizer_json, "operators": OperatorOptions(dedup="exact"), **SMALL}
    ingest(files, tmp_path / "local", workers=1, **options)
    killed = []

    def progress(done, total, note):
        if done and not killed and "documents" in note:
            # Ours only: another Ray may run on this machine.
            children = psutil.Process().children(recursive=True)
            killed.extend(child.pid for child in children if child.name().startswith("ray::RayWorker"))
            os.kill(killed[0], signal.SIGKILL)

    ingest(files, tmp_path / "ray", workers=2, distribute="ray", progress=progress, **options)
    assert killed
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_on_ray_a_bad_document_is_the_same_clear_line(ray, tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", ["fine"] * 2000)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1234] = b"{\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(DocumentError, match=r"a\.jsonl: line 1235: byte \d+: broken JSON"):
        ingest(
            path,
            tmp_path / "store",
            distribute="ray",
            workers=2,
            job=JobOptions(strict=True, shard_text_bytes=20_000),
        )


def test_a_store_in_memory_cannot_be_made_on_ray(tmp_path, write_jsonl):
    with pytest.raises(ConfigError, match="do not see this process's memory"):
        ingest(write_jsonl(tmp_path / "a.jsonl", ["a"]), "memory://x", distribute="ray")
