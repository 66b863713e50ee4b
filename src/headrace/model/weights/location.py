"""A path, a URL or hf://OWNER/NAME[@REVISION] of a model -> a local directory with its files, every byte checked.

Files of an object store or HTTP server go to a cache of this machine ($HEADRACE_CACHE_DIR, at most
$HEADRACE_CACHE_DIR_BYTES), those of a hub to huggingface_hub's own cache. What is checked: files of a checkpoint by the
run's manifest, files of a hub by its sha256 and git hashes, all others by their sizes and, later, by what was fetched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import orjson

from headrace.errors import CheckpointError, ConfigError, StoreError
from headrace.formatting import nbytes
from headrace.model.weights.checkpoint import MANIFEST, STATE, parse_manifest
from headrace.paths import HUB_NAME, home_directory, is_url, local_path
from headrace.storage import Blob, DamagedFileError, FileCache, Progress, RemoteFile, open_blob

logger = logging.getLogger("headrace.load")

CACHE_DIR: Final = "HEADRACE_CACHE_DIR"
CACHE_DIR_BYTES: Final = "HEADRACE_CACHE_DIR_BYTES"
DEFAULT_CACHE_BYTES: Final = 256 << 30
RUN: Final = "run.json"
CONFIG: Final = "config.json"
ADAPTER: Final = "adapter_config.json"
HUB: Final = "hf://"
_INDEX: Final = "model.safetensors.index.json"
_SUFFIXES: Final = (".json", ".jinja", ".model", ".safetensors", ".tiktoken", ".txt")
"""Of a Hugging Face directory's files that are read; pickles and other frameworks' weights are not."""
# What an HTTP server is asked for, as it does not list its names.
_NAMES: Final = (
    CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "headrace-tokenizer.json",
    "chat_template.jinja", "chat_template.json", "tekken.json", _INDEX, "model.safetensors",
)  # fmt: skip
_SCHEMES: Final = (
    "s3://",
    "s3a://",
    "gs://",
    "az://",
    "azure://",
    "abfs://",
    "abfss://",
    "adl://",
    "memory://",
)
_THREADS: Final = 16

_caches: dict[tuple[str, int], FileCache] = {}


def fetch_model(model: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """The local directory of a model: the path itself, or a copy that is known to be good.

    Args:
        model: a local directory, an s3://, gs://, az:// or http(s):// URL of a run or of a Hugging Face directory, or
            hf://OWNER/NAME[@REVISION]. RUN@STEP or RUN@best of a URL is that checkpoint; a local one is left to
            `load_model`.
        progress: called as progress(bytes done, bytes in all, note) while files are fetched.

    Raises:
        ConfigError: no model there, or a URL that cannot be read.
        CheckpointError: a run without a whole checkpoint.
        StorageError, SpaceError: the cache's disk.
        WorkerError: the remote does not answer.
    """
    text = os.fspath(model)
    if text.startswith(HUB):
        return _fetch_from_hub(text)
    if not is_url(text) or text.startswith("file:"):
        return local_path(text, name="model")
    if not text.startswith((*_SCHEMES, "http://", "https://")):
        raise ConfigError(
            f"model {text}: expected a local directory, {', '.join(_SCHEMES[:2])}, gs://, az://, http(s):// or "
            "hf://OWNER/NAME[@REVISION]."
        )
    named = None if text.startswith("http") else re.fullmatch(r"(.+)@(\d+|best)", text)
    url, at = (named[1], named[2]) if named else (text, None)
    blob = open_blob(url)
    try:
        if url.startswith("http"):
            return _fetch_hf(blob, text, progress)
        return _fetch_listed(blob, url, at, progress)
    except (FileNotFoundError, StoreError) as error:
        raise ConfigError(f"model {text}: {error}") from error


def cache_directory() -> Path:
    """Where this machine keeps what it can fetch again: $HEADRACE_CACHE_DIR, or headrace in the user's cache."""
    directory = os.environ.get(CACHE_DIR)
    if not directory:
        base = os.environ.get("XDG_CACHE_HOME")
        directory = (
            base or f"{home_directory(kept='copies of models', cure=f'Set {CACHE_DIR}')}/.cache"
        ) + "/headrace"
    return local_path(directory, name=CACHE_DIR)


def fetch_checkpoint(blob: Blob, step: int, *, progress: Progress | None = None) -> Path:
    """The local directory of one checkpoint of a run on a remote, every byte compared with its manifest.

    Raises:
        FileNotFoundError: it is not there, or not whole.
        CheckpointError, DamagedFileError: it is damaged.
        ConfigError: it does not fit into the cache.
        StorageError, SpaceError: the cache's disk.
        WorkerError: the remote does not answer.
    """
    directory = f"checkpoints/step-{step:08d}"
    manifest = f"{directory}/{MANIFEST}"
    listed = parse_manifest(bytes(blob.get(manifest)), f"{blob.url}/{manifest}")["files"]
    hashes = {f"{directory}/{name}": str(one["xxh3_128"]) for name, one in listed.items()}
    return _fetch_files(blob, blob.url, [manifest, *hashes], hashes, progress) / directory


def model_cache() -> FileCache:
    """The cache of this machine, as the environment describes it.

    Raises:
        ConfigError: its bound is no number of bytes.
    """
    text = os.environ.get(CACHE_DIR_BYTES, str(DEFAULT_CACHE_BYTES))
    if not text.isdecimal():
        raise ConfigError(f"{CACHE_DIR_BYTES} is {text!r}; expected a number of bytes.")
    models = cache_directory() / "models"
    return _caches.setdefault((str(models), int(text)), FileCache(models, max_bytes=int(text)))


def _fetch_listed(blob: Blob, url: str, at: str | None, progress: Progress | None) -> Path:
    names = blob.list()
    if RUN in names:
        return _fetch_run(blob, url, names, at, progress)
    if at is not None:
        raise ConfigError(f"model {url}@{at}: no run is there, so it has no checkpoint of a step.")
    if CONFIG in names or ADAPTER in names:
        needed = [name for name in names if "/" not in name and name.endswith(_SUFFIXES)]
        return _fetch_files(blob, url, needed, {}, progress)
    raise ConfigError(
        f"model {url}: neither a run ({RUN}), a Hugging Face directory ({CONFIG}) nor an adapter ({ADAPTER}) is "
        f"there; {len(names)} other names are."
    )


def _fetch_hf(blob: Blob, url: str, progress: Progress | None) -> Path:
    """A Hugging Face directory on a server that does not list its names."""
    names = [name for name in _NAMES if _exists(blob, name)]
    if CONFIG not in names:
        raise ConfigError(
            f"model {url}: no {CONFIG} there. An HTTP server does not list names, so that only Hugging Face "
            "directories can be read from it; give a run by its s3://, gs:// or az:// URL."
        )
    if _INDEX in names:
        try:
            names += sorted(set(orjson.loads(blob.get(_INDEX))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"model {url}: {_INDEX} is not an index of safetensors files ({error!r})."
            ) from error
    return _fetch_files(blob, url, list(dict.fromkeys(names)), {}, progress)


def _exists(blob: Blob, name: str) -> bool:
    try:
        blob.info(name)
    except FileNotFoundError:
        return False
    return True


def _fetch_run(blob: Blob, url: str, names: Sequence[str], at: str | None, progress: Progress | None) -> Path:
    """A run with its newest whole checkpoint, or that of a step; damaged ones are passed over for older ones."""
    manifests = {
        int(match[1]): name
        for name in names
        if (match := re.fullmatch(rf"checkpoints/step-(\d+)/{re.escape(MANIFEST)}", name))
    }
    steps = sorted(manifests, reverse=True)
    if at == "best":
        at = _best_step(blob, url, manifests[steps[0]] if steps else None)
    if at is not None:
        if int(at) not in manifests:
            raise CheckpointError(
                f"{url}: no checkpoint of step {int(at)}; there are {', '.join(map(str, reversed(steps))) or 'none'}."
            )
        return _fetch_checkpoint(blob, url, names, manifests[int(at)], progress)
    for step in steps:
        try:
            return _fetch_checkpoint(blob, url, names, manifests[step], progress)
        except (CheckpointError, DamagedFileError, FileNotFoundError) as error:
            logger.warning("%s This checkpoint is passed over for an older one.", error)
    raise CheckpointError(f"{url}: no whole checkpoint in it. Let the training run reach its first one.")


def _best_step(blob: Blob, url: str, newest: str | None) -> str:
    """The step of the lowest held-out loss, as the newest checkpoint's state has it."""
    if newest is not None:
        best = orjson.loads(blob.get(f"{newest.rpartition('/')[0]}/{STATE}")).get("best")
        if best:
            return str(best["step"])
    raise CheckpointError(f"{url}: has no best checkpoint: it was not evaluated. Leave @best out.")


def _fetch_checkpoint(
    blob: Blob, url: str, names: Sequence[str], manifest: str, progress: Progress | None
) -> Path:
    directory = manifest.rpartition("/")[0]
    listed = parse_manifest(bytes(blob.get(manifest)), f"{url}/{manifest}")["files"]
    hashes = {f"{directory}/{name}": str(one["xxh3_128"]) for name, one in listed.items()}
    bases = [name for name in names if re.fullmatch(rf"base/step-\d+/{re.escape(MANIFEST)}", name)]
    for base in bases:  # frozen weights that LoRA is beside
        listed = parse_manifest(bytes(blob.get(base)), f"{url}/{base}")["files"]
        hashes |= {f"{base.rpartition('/')[0]}/{name}": str(one["xxh3_128"]) for name, one in listed.items()}
    shared = [RUN, *(name for name in names if name.startswith(("tokenizer/", "pretrained/")))]
    return _fetch_files(blob, url, [*shared, *bases, manifest, *hashes], hashes, progress)


def _fetch_files(
    blob: Blob, url: str, names: Sequence[str], hashes: Mapping[str, str], progress: Progress | None
) -> Path:
    with ThreadPoolExecutor(_THREADS) as pool:
        infos = list(pool.map(blob.info, names))
    versions = [[name, info.nbytes, info.version] for name, info in zip(names, infos, strict=True)]
    key = hashlib.blake2b(orjson.dumps([url.rstrip("/"), sorted(versions)]), digest_size=16).hexdigest()
    files = [
        RemoteFile(name=name, nbytes=info.nbytes, xxh3_128=hashes.get(name))
        for name, info in zip(names, infos, strict=True)
    ]
    cache = model_cache()
    path = cache.fetch(key, blob, files, progress=progress)
    unchecked = [file for file in files if file.xxh3_128 is None]
    logger.info(
        "%s: %d files, %s, in %s; of %d (%s) the source has no hash: their sizes were checked, and what was fetched",
        url, len(files), nbytes(sum(file.nbytes for file in files)), path, len(unchecked),
        nbytes(sum(file.nbytes for file in unchecked)),
    )  # fmt: skip
    return path


def _fetch_from_hub(text: str) -> Path:
    """A snapshot in huggingface_hub's cache, its files compared with the hub's hashes."""
    match = HUB_NAME.fullmatch(text)
    if match is None:
        raise ConfigError(f"model {text}: expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    options: dict[str, Any] = {
        "revision": match[2],
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
        "allow_patterns": [*(f"*{suffix}" for suffix in _SUFFIXES), "checkpoints/*", "base/*"],
    }
    for attempt in (1, 2):
        try:
            path = Path(snapshot_download(match[1], **options, force_download=attempt == 2))
        except GatedRepoError as error:
            raise ConfigError(
                f"model {text}: access needs the owner's consent: ask for it on the model's page, then log in "
                f"(hf auth login, or HF_TOKEN)."
            ) from error
        except RepositoryNotFoundError as error:
            raise ConfigError(
                f"model {text}: no such repository, or a private one: check the name, or log in (HF_TOKEN)."
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
            raise ConfigError(
                f"model {text}: cannot be fetched: {str(error).splitlines()[0]}. Does the hub answer (HF_ENDPOINT, "
                f"HF_HUB_OFFLINE), and does it have this revision? What was fetched before is used without it."
            ) from error
        damaged = _damaged_in_hub_cache(path)
        if not damaged:
            break
        logger.warning("%s: does not have the hub's hash; it is fetched again", ", ".join(damaged))
    else:
        raise ConfigError(
            f"model {text}: {', '.join(damaged)}: other bytes than the hub's hash, also fetched again."
        )
    if not any((path / name).is_file() for name in (CONFIG, RUN, ADAPTER)):
        raise ConfigError(f"model {text}: neither {RUN}, {CONFIG} nor {ADAPTER} is in it.")
    return path


def _damaged_in_hub_cache(snapshot: Path) -> list[str]:
    """Names of files whose bytes do not have the hash that names them in the hub's cache."""
    files = sorted(path for path in snapshot.rglob("*") if path.is_file())
    with ThreadPoolExecutor(4) as pool:
        good = list(pool.map(_has_its_hash, files))
    unchecked = [path.name for path, one in zip(files, good, strict=True) if one is None]
    if unchecked:
        logger.info("%s: without a hash of the hub, not checked: %s", snapshot, ", ".join(unchecked))
    return [path.name for path, one in zip(files, good, strict=True) if one is False]


def _has_its_hash(path: Path) -> bool | None:
    """Whether a file has the sha256 (large files) or git hash that its blob is named by; None: it has no such name."""
    name = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", name):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return None
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while got := file.readinto(buffer):
            digest.update(memoryview(buffer)[:got])
    return digest.hexdigest() == name
