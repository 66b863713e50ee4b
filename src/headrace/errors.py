"""A fault -> one exception whose message says what, where, what was got, what was expected, and the cure.

HeadraceError
├── InputError (ValueError)      the caller's input is at fault            exit code 2
│   ├── SourceError              a raw file: missing, truncated, of another format
│   ├── DocumentError            one document: invalid UTF-8, broken JSON, no text field
│   ├── TokenizerError           a tokenizer that cannot be found, read, or trusted
│   ├── ConfigError              an option or a combination of options
│   ├── OrderError               a position, rank, mixture or epoch out of range
│   └── ResumeError              a saved state that belongs to something else
├── StoreError                   a store is at fault                       exit code 2
│   ├── ManifestError            not a store, or its manifest is damaged
│   └── ShardError               a shard or block is damaged, missing or forged
├── CheckpointError              no valid checkpoint, or a damaged one     exit code 2
├── SinkError                    predictions: damaged log or part, a second coordinator   exit code 2
├── StorageError                 a file cannot be read or written: permission, I/O error   exit code 2
│   └── SpaceError               no space left on the device
└── WorkerError                  a worker, rank or remote peer failed      exit code 1
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base class of all errors that headrace raises on purpose."""

    exit_code: int = 1
    shared: bool = False
    """Whether rank 0 of a distributed run raises the same error, so that only rank 0 prints it."""


class InputError(HeadraceError, ValueError):
    """The caller's input cannot be used; nothing was changed."""

    exit_code = 2


class SourceError(InputError):
    """A raw file is missing, truncated, or of another format than its name says."""


class DocumentError(InputError):
    """One document is invalid: UTF-8, JSON, a missing field, a length."""


class TokenizerError(InputError):
    """A tokenizer cannot be found, read, or trusted."""


class ConfigError(InputError):
    """An option, or a combination of options, is not valid."""


class OrderError(InputError):
    """A position, rank, epoch or mixture is out of range."""


class ResumeError(InputError):
    """A saved state belongs to another store, tokenizer, length or mixture."""


class StoreError(HeadraceError):
    """A store is damaged, incomplete, or not a store."""

    exit_code = 2


class ManifestError(StoreError):
    """The manifest is missing, damaged, or of an unknown version."""


class ShardError(StoreError):
    """A shard or a block of it is damaged, missing, or forged."""


class CheckpointError(HeadraceError):
    """No valid checkpoint, or a damaged one."""

    exit_code = 2


class SinkError(HeadraceError):
    """A prediction log or part is damaged, or another coordinator holds the job."""

    exit_code = 2


class StorageError(HeadraceError):
    """The operating system refused to read or write a file: permission, I/O error, read-only file system."""

    exit_code = 2


class SpaceError(StorageError):
    """No space is left on the device; files that were complete stay complete."""


class WorkerError(HeadraceError):
    """A worker process, rank, or remote peer failed."""
