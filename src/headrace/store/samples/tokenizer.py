"""A tokenizer <-> its files in a store of samples, and what the manifest's `extra` says of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from headrace.errors import ConfigError, ManifestError
from headrace.storage import Blob
from headrace.store.format import is_name, tokenizer_path
from headrace.store.manifest import FileSum, file_sum_of
from headrace.store.samples.manifest import SampleManifest

if TYPE_CHECKING:
    from headrace.tokens import Tokenizer

KEY: Final = "tokenizer"
"""The member of the manifest's `extra`."""


def write_tokenizer(blob: Blob, tokenizer: Tokenizer) -> dict[str, Any]:
    """Write a tokenizer's files; returns what the manifest says of it.

    Raises:
        ConfigError: a file's name is none that a store has.
    """
    files = dict(sorted(tokenizer.files().items()))
    for name, data in files.items():
        if not is_name(name):
            raise ConfigError(f"{blob.url}: tokenizer file {name!r}: expected letters, digits, '.', '_', '-'")
        blob.put(tokenizer_path(name), data)
    return {
        "name": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "files": [asdict(FileSum.of(name, data)) for name, data in files.items()],
    }


def read_sample_tokenizer_files(blob: Blob, manifest: SampleManifest) -> dict[str, bytes]:
    """Names and contents of the tokenizer's files, checked; empty where the store has no tokenizer.

    Raises:
        ManifestError: missing or damaged.
    """
    about = manifest.extra.get(KEY)
    if about is None:
        return {}
    files = {}
    try:
        sums = [file_sum_of(one) for one in about["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{blob.url}: extra.{KEY}: {error!r}. Forged, or written by another program"
        ) from error
    for file in sums:
        path = tokenizer_path(file.name)
        try:
            data = bytes(blob.get_range(path, 0, file.nbytes + 1))
        except FileNotFoundError as error:
            raise ManifestError(f"{blob.url}/{path}: missing, and the manifest names it") from error
        file.check(data, where=f"{blob.url}/tokenizer")
        files[file.name] = data
    return files
