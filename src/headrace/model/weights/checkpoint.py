"""A run's checkpoint directories -> the newest whole one, verified, and tensors out of it.

CHECKPOINTS/step-00000100/
  *.distcp, .metadata   tensors, sharded, by torch.distributed.checkpoint: they open on any layout
  state.json            step, loader position, elapsed seconds, what the run was
  manifest.json         size and XXH3-128 of every other file and of itself, written last

A directory gets its name by one rename when everything in it is on disk, so one without a manifest, or
with a file that differs from its entry in the manifest, was damaged afterwards.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import xxhash
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load

from headrace.errors import CheckpointError

MANIFEST = "manifest.json"
STATE = "state.json"
CHECKPOINT_FORMAT = 1
_STEP_DIR = re.compile(r"step-(\d{8,})")


def step_dir(checkpoints: Path, step: int) -> Path:
    """Directory of the checkpoint of a step."""
    return checkpoints / f"step-{step:08d}"


def list_checkpoints(checkpoints: Path) -> list[tuple[int, Path]]:
    """(step, directory) of every finished checkpoint, oldest first, none opened."""
    if not checkpoints.is_dir():
        return []
    matches = [(_STEP_DIR.fullmatch(path.name), path) for path in checkpoints.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def hash_file(path: Path) -> str:
    """XXH3-128 of a file's bytes, 32 hex digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify_checkpoint(directory: Path) -> dict[str, Any]:
    """Read and check every byte of a checkpoint; returns its state.json.

    Raises:
        CheckpointError: a file is missing, has another size or hash, or the manifest cannot be read.
    """
    files = _read_manifest(directory / MANIFEST)["files"]
    for name, entry in files.items():
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; the manifest lists it with {entry['bytes']} bytes.")
        if path.stat().st_size != entry["bytes"]:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, manifest says {entry['bytes']}.")
        if (got := hash_file(path)) != entry["xxh3_128"]:
            raise CheckpointError(f"{path}: XXH3-128 {got}, manifest says {entry['xxh3_128']}.")
    if STATE not in files:
        raise CheckpointError(f"{directory}: its manifest lists no {STATE}.")
    state: dict[str, Any] = orjson.loads((directory / STATE).read_bytes())
    return state


def manifest_files(directory: Path) -> list[str]:
    """Names of the files that a checkpoint's manifest lists.

    Raises:
        CheckpointError: it cannot be read, or names something that is no file beside it.
    """
    names = sorted(_read_manifest(directory / MANIFEST)["files"])
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{directory / MANIFEST}: lists {name!r}; expected a file beside it.")
    return names


def encode_manifest(manifest: dict[str, Any]) -> bytes:
    """A manifest with its own hash: the bytes of manifest.json."""
    digest = xxhash.xxh3_128(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps({**manifest, "xxh3_128": digest}, option=orjson.OPT_INDENT_2)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error
    return parse_manifest(content, path)


def parse_manifest(content: bytes, where: object) -> dict[str, Any]:
    """The content of a checkpoint's manifest.json.

    Raises:
        CheckpointError: not whole, or of another format; names `where`.
    """
    try:
        manifest: dict[str, Any] = orjson.loads(content)
        version, expected = manifest["format"], manifest.pop("xxh3_128")
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: cannot be read ({error}).") from error
    if version != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{where}: checkpoint format {version!r}, this headrace reads {CHECKPOINT_FORMAT}."
        )
    got = xxhash.xxh3_128(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()
    if got != expected:
        raise CheckpointError(f"{where}: XXH3-128 of its content is {got}, it says {expected}.")
    return manifest


def latest_checkpoint(
    checkpoints: Path, *, warn: Callable[[str], None] | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint: (directory, its state.json), or None when there is none.

    Damaged ones are passed over, each with a warning that names the file and both hashes.

    Args:
        checkpoints: RUN/checkpoints.
        warn: called with one sentence per damaged checkpoint; default warnings.warn.
    """
    for _, directory in reversed(list_checkpoints(checkpoints)):
        try:
            return directory, verify_checkpoint(directory)
        except CheckpointError as error:
            message = f"{error} This checkpoint is passed over for an older one."
            if warn is None:
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            else:
                warn(message)
    return None


def find_checkpoint(
    run: Path, at: str | None = None, *, warn: Callable[[str], None] | None = None
) -> tuple[Path, dict[str, Any]]:
    """A whole checkpoint of a run: (directory, its state.json).

    Args:
        run: run directory.
        at: a step; "best": that of the lowest held-out loss; None: the newest.
        warn: see `latest_checkpoint`.

    Raises:
        CheckpointError: no such checkpoint, or it is damaged; says which there are.
    """
    checkpoints = run / "checkpoints"
    if at is None or at == "best":
        latest = latest_checkpoint(checkpoints, warn=warn)
        if latest is None:
            raise CheckpointError(
                f"{run}: no whole checkpoint in it yet. Let the training run reach its first one, or continue it."
            )
        if at is None:
            return latest
        best = latest[1].get("best")
        if not best:
            raise CheckpointError(f"{run}: has no best checkpoint: it was not evaluated. Leave @best out.")
        at = str(best["step"])
    directory = step_dir(checkpoints, int(at))
    if not directory.is_dir():
        there = ", ".join(str(step) for step, _ in list_checkpoints(checkpoints)) or "none"
        raise CheckpointError(f"{run}: no checkpoint of step {int(at)}; there are {there}.")
    return directory, verify_checkpoint(directory)


def read_tensors(directory: Path, into: dict[str, Tensor], *, alone: bool = True) -> None:
    """Fill tensors in place, by name, from a checkpoint, whatever layout wrote it.

    Args:
        directory: a verified checkpoint.
        into: name -> tensor (a DTensor takes its shard).
        alone: this process reads by itself; False when all ranks call together.

    Raises:
        CheckpointError: a name or shape that the checkpoint does not have.
    """
    try:
        with warnings.catch_warnings():
            # torch warns at every load that a single process loads alone; that is meant.
            warnings.filterwarnings("ignore", message=".*no_dist.*|.*torch.distributed.*")
            load(dict(into), storage_reader=FileSystemReader(directory), no_dist=alone)
    except (RuntimeError, ValueError, KeyError, CheckpointException) as error:
        raise CheckpointError(f"{directory}: does not fit this model: {error}") from error
