"""Runs on an object store: the same losses as on a disk, whole or absent after a kill, never a silent start from 0."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import xxhash
from flat_options import train
from storage_fakes import FaultyProxy

from headrace.errors import CheckpointError, ConfigError, ResumeError
from headrace.model import GPTConfig, load_model, parse_manifest
from headrace.paths import remote_url
from headrace.profile import report
from headrace.storage import Blob, open_blob
from headrace.training import LoraOptions
from headrace.training.checkpoints.remote_place import committed_steps, directory_of
from headrace.training.checkpoints.save_watch import SaveWatch
from headrace.training.distributed.process_group import ProcessGroup
from headrace.training.remote_run import RemoteRun

OPTIONS: dict[str, Any] = {
    "model": GPTConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2,
        vocab_size=257, max_position_embeddings=16),
    "seq_len": 16, "batch_size": 4, "steps": 10, "lr": 3e-3, "device": "cpu", "dtype": "float32",
    "checkpoint_every": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "cache"))


def losses_of(blob: Blob) -> list[tuple[int, float]]:
    lines = [orjson.loads(line) for line in bytes(blob.get("metrics.jsonl")).splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def local(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """Losses of the same run on a disk."""
    out = tmp_path_factory.mktemp("local") / "run"
    train(store, out=out, **OPTIONS)
    return losses_of(open_blob(out))


def test_a_run_on_s3_has_the_losses_of_a_local_one_and_goes_on_where_it_was_whole(
    s3_url: str, store: Path, tmp_path: Path, local: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blob = open_blob(s3_url)
    summary = train(store, out=s3_url, **OPTIONS)
    assert summary.out == s3_url
    assert losses_of(blob) == local
    assert committed_steps(blob) == [4, 8, 10]
    for name in blob.list("checkpoints/step-00000010/"):
        if name.endswith(".distcp"):
            content = bytearray(blob.get(name))
            content[100] ^= 1
            blob.put(name, bytes(content))
    with pytest.warns(RuntimeWarning, match=r"step-00000010.*__0_.*passed over for an older one"):
        again = train(store, out=s3_url, **OPTIONS)
    assert again.resumed_from == 8
    assert losses_of(blob) == local
    assert committed_steps(blob) == [4, 8, 10]
    assert train(store, out=s3_url, **OPTIONS).resumed_from == 10
    load_model(s3_url)
    assert report(s3_url) == f"{s3_url}/report.html"
    assert b"</html>" in bytes(blob.get("report.html"))
    assert "plots/loss.svg" in blob.list("plots/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
    assert b"checkpoint committed" in bytes(blob.get("train.log"))
    assert orjson.loads(bytes(blob.get("run.json")))["first_checkpoint"] == 4


@pytest.mark.parametrize("lost", ["checkpoints", "manifests"])
def test_a_run_that_lost_all_checkpoints_asks_and_changes_nothing(lost: str, store: Path) -> None:
    url = f"memory://lost-{lost}"
    blob = open_blob(url)
    train(store, out=url, **OPTIONS)
    for name in blob.list("checkpoints/"):
        if lost == "checkpoints" or name.endswith("manifest.json"):
            blob.delete(name)
    metrics = bytes(blob.get("metrics.jsonl"))
    with pytest.raises(
        CheckpointError, match=f"{url}: the run had checkpoints from step 4 on and reached step 10"
    ):
        train(store, out=url, **OPTIONS)
    assert bytes(blob.get("metrics.jsonl")) == metrics


def test_checkpoints_without_a_run_json_are_not_taken_for_another_runs(store: Path) -> None:
    url = "memory://orphans"
    train(store, out=url, **OPTIONS)
    for name in ("run.json", "metrics.jsonl"):
        open_blob(url).delete(name)
    with pytest.raises(ResumeError, match=f"{url}: has a checkpoint of step 10, but neither"):
        train(store, out=url, **OPTIONS)


def test_a_second_run_into_the_same_place_is_refused_by_the_url(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.training.run_directory import remote_lock

    url = "memory://second"
    monkeypatch.setattr(remote_lock, "RENEW_S", 0.05)
    refused: list[str] = []

    def second(done: int, total: int | None, note: str) -> None:
        if done == 2:
            with pytest.raises(
                ResumeError, match=f"{url}: another process is training into this run"
            ) as error:
                train(store, out=url, **OPTIONS)
            refused.append(str(error.value))

    train(store, out=url, progress=second, **OPTIONS)
    assert len(refused) == 1
    assert committed_steps(open_blob(url)) == [4, 8, 10]


def test_other_options_are_refused_by_the_url_and_restart_starts_over(store: Path) -> None:
    url = "memory://restarted"
    train(store, out=url, **OPTIONS)
    with pytest.raises(ResumeError, match=f"{url}: holds another run"):
        train(store, out=url, **{**OPTIONS, "seq_len": 8})
    open_blob(url).put("notes/of-the-user.txt", b"kept")
    assert train(store, out=url, restart=True, **{**OPTIONS, "seq_len": 8}).resumed_from == 0
    assert bytes(open_blob(url).get("notes/of-the-user.txt")) == b"kept"
    with pytest.raises(ConfigError, match="Leave mirror out"):
        train(store, out=url, mirror="memory://m", **OPTIONS)
    open_blob("memory://restart-other").put("tokenizer/x", b"")
    with pytest.raises(ConfigError, match="not a run, and restart deletes nothing"):
        train(store, out="memory://restart-other", restart=True, **OPTIONS)


def test_a_branch_and_fine_tuning_begin_on_an_object_store(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path / "run", **OPTIONS)
    options = {name: value for name, value in OPTIONS.items() if name != "model"}
    branch = train(
        store, out="memory://branch", init_from=f"{tmp_path / 'run'}@8", init_state="full", **options
    )
    assert branch.resumed_from == 8
    tuned = train(store, out="memory://tuned", init_from=tmp_path / "run", **options)
    assert (tuned.resumed_from, tuned.steps) == (0, 10)
    assert train(store, out="memory://tuned", init_from=tmp_path / "run", **options).resumed_from == 10


def test_lora_is_refused_with_what_to_give_instead(store: Path, tmp_path: Path) -> None:
    train(store, out=tmp_path / "run", **OPTIONS)
    options = {name: value for name, value in OPTIONS.items() if name != "model"}
    lora = LoraOptions(r=2, target_modules=("all-linear",))
    with pytest.raises(ConfigError, match="Give a local --out; --mirror memory://lora copies it there"):
        train(store, out="memory://lora", init_from=tmp_path / "run", lora=lora, **options)
    assert [name for name in open_blob("memory://lora").list() if not name.startswith("locks/")] == []


def test_a_run_of_two_processes_killed_on_s3_goes_on_with_one(
    s3_url: str, store: Path, start_run: Callable[..., Any], local: list[tuple[int, float]], tmp_path: Path
) -> None:
    blob = open_blob(s3_url)
    environment = {
        name: value for name, value in os.environ.items() if name.startswith(("AWS_", "HEADRACE_CACHE"))
    }
    run = start_run(world=2, stores=store, out=s3_url, environment=environment, **OPTIONS)
    run.wait_for_step(9)
    run.send(signal.SIGKILL)
    os.kill(run.pids[1], signal.SIGKILL)
    run.wait_all()
    assert set(committed_steps(blob)) <= {4, 8, 10}
    steps = committed_steps(blob)
    assert train(store, out=s3_url, **OPTIONS).resumed_from == (max(steps) if steps else 0)
    got = losses_of(blob)
    assert [step for step, _ in got] == list(range(1, 11))
    assert [loss for _, loss in got] == pytest.approx([loss for _, loss in local], abs=1e-4)


def test_a_process_that_lost_its_lock_sends_no_metrics(tmp_path: Path) -> None:
    blob = open_blob("memory://lost-lock")
    run = RemoteRun("memory://lost-lock", group=ProcessGroup(), log=print, warn=print)
    watch = SaveWatch(step=1, rank=0, place="", limit_s=60, log=print, warn=print)
    with run.opened():
        (run.directory / "metrics.jsonl").write_text("{}\n")
        run.before_commit(watch)
        blob.put("metrics.jsonl", b"of the next holder")
        blob.put("locks/00000002.json", b"{}")
        with pytest.raises(ResumeError, match="another process trains into this run now"):
            run.before_commit(watch)
    assert bytes(blob.get("metrics.jsonl")) == b"of the next holder"


def test_a_rank_that_cannot_write_its_part_ends_all_ranks_with_its_error(
    store: Path, start_run: Callable[..., Any], tmp_path: Path
) -> None:
    """In the place of the second rank's working directory is one that has a file where it needs a directory."""
    url = "memory://one-rank-cannot-write"
    directory = RemoteRun(url, group=ProcessGroup(rank=1, size=2), log=print, warn=print).directory
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".staging-step-00000004").write_bytes(b"")
    directory.parent.mkdir(parents=True)
    directory.symlink_to(tmp_path / "other")
    environment = {"HEADRACE_CACHE_DIR": os.environ["HEADRACE_CACHE_DIR"]}
    ends = start_run(world=2, stores=store, out=url, environment=environment, **OPTIONS).wait_all()
    assert [code for code, _ in ends] == [9, 9]
    for _, line in ends:
        assert "error CheckpointError" in line
        assert "a checkpoint could not be written" in line
    assert "rank 1: " in ends[0][1]


def check_whole(blob: Blob, step: int) -> None:
    """Compare every file of a checkpoint with its manifest."""
    manifest = f"{directory_of(step)}/manifest.json"
    for name, entry in parse_manifest(bytes(blob.get(manifest)), manifest)["files"].items():
        content = bytes(blob.get(f"{directory_of(step)}/{name}"))
        assert (len(content), xxhash.xxh3_128_hexdigest(content)) == (entry["bytes"], entry["xxh3_128"]), name


class SeededTrouble:
    """Storms of 503, answers that are lost after the request was done, and at most one request that hangs."""

    def __init__(self, seed: int) -> None:
        self._rng, self._storm, self._hung = random.Random(seed), 0, False

    def __call__(self, number: int, method: str, path: str) -> object:
        if self._storm:
            self._storm -= 1
            return 503
        draw = self._rng.random()
        if draw < 0.01:
            self._storm = self._rng.randint(2, 30)
        elif draw < 0.03 and method != "POST":
            return "lose"
        elif draw < 0.035 and not self._hung:
            self._hung = True
            return "hang"
        return None


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store_answers", ["always", "sometimes"])
@pytest.mark.parametrize("seed", range(4))
def test_no_kill_of_any_rank_at_any_moment_of_a_save_to_s3_costs_more_than_steps(
    seed: int,
    store_answers: str,
    s3_url: str,
    s3_server: int,
    store: Path,
    start_run: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Eight kills each; every step is saved, so that most of them hit a save. The losses are equal to the digit."""
    rng, blob, reached = random.Random(seed), open_blob(s3_url), 0
    options = {**OPTIONS, "checkpoint_every": 1, "steps": 32}
    assert start_run(world=2, stores=store, out=tmp_path / "local", **options).wait() == 0
    with FaultyProxy(s3_server) as proxy:
        if store_answers == "sometimes":
            proxy.trouble = SeededTrouble(seed)
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        options["environment"] = {
            **environment,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "HEADRACE_CACHE_DIR": os.environ["HEADRACE_CACHE_DIR"],
        }
        for _ in range(8):
            run = start_run(world=2, stores=store, out=s3_url, **options)
            run.wait_for_step(reached + rng.randint(1, 3))
            threading.Event().wait(rng.uniform(0.0, 0.3))
            victims = rng.sample(run.pids, k=rng.choice([1, 2]))  # of one alone the other rank has to learn
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ends = run.wait_all()
            assert all(code != 0 for code, _ in ends), ends
            steps = committed_steps(blob)
            assert max(steps, default=0) >= reached
            for step in steps:
                check_whole(blob, step)
            reached = max(steps, default=0)
        end = start_run(world=2, stores=store, out=s3_url, **options).wait_all()
        assert [code for code, _ in end] == [0, 0], end
    assert losses_of(blob) == losses_of(open_blob(tmp_path / "local"))


def test_a_url_that_a_path_has_shortened_is_the_same_run() -> None:
    assert remote_url(Path("s3://bucket/run")) == remote_url("s3://bucket/run/") == "s3://bucket/run"
    assert remote_url("https://host/run") is None
