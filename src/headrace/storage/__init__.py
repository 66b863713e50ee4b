"""Bytes anywhere: local files, memory and object stores behind one small interface.

In reading order:

    protocol      Blob, the interface
    files         local files that are whole or absent after a power cut; errors of the disk
    local, memory a directory; bytes of this process
    event_loop, remote   S3, GCS, Azure and HTTP
    retry         the same call again while a remote is unavailable
    opener        a URL or path -> its blob
    reader        an object as a file that seeks
    ranges, limiter, threads   many ranges, read by few requests, by daemon threads
    upload        a file into an object, by multipart upload
    bulk_read     whole files into memory that is there, by many large requests
    file_cache    whole files fetched once per machine, known to be good
    cache         blocks fetched once per machine, bounded and shared by processes
    arrow         Arrow data from outside, checked before it is read
    parquet_footer  an encrypted Parquet file, recognised before Arrow opens it
"""

from headrace.storage.arrow import arrow_errors, validate_arrow
from headrace.storage.bulk_read import (
    REMOTE_REQUESTS,
    REQUEST_BYTES,
    BulkReader,
    Progress,
    RangeRead,
    read_into,
)
from headrace.storage.cache import NodeCache
from headrace.storage.file_cache import DamagedFileError, FileCache, RemoteFile
from headrace.storage.files import (
    disk_errors,
    fsync_directory,
    fsync_file,
    is_file_at,
    make_directory,
    storage_error,
    write_all,
    write_file,
)
from headrace.storage.limiter import ConcurrencyLimit
from headrace.storage.local import LocalBlob
from headrace.storage.memory import MemoryBlob
from headrace.storage.opener import absolute_url, open_blob, read_verified
from headrace.storage.parquet_footer import refuse_encrypted
from headrace.storage.protocol import Blob, Data, ObjectInfo, Unavailable
from headrace.storage.ranges import coalesce
from headrace.storage.reader import ObjectFile, split_url
from headrace.storage.remote import RemoteBlob
from headrace.storage.retry import Cancelled, Retry, RetryingBlob
from headrace.storage.threads import INTERRUPT_S, DaemonPool
from headrace.storage.upload import upload_file

__all__ = [
    "INTERRUPT_S",
    "REMOTE_REQUESTS",
    "REQUEST_BYTES",
    "Blob",
    "BulkReader",
    "Cancelled",
    "ConcurrencyLimit",
    "DaemonPool",
    "DamagedFileError",
    "Data",
    "FileCache",
    "LocalBlob",
    "MemoryBlob",
    "NodeCache",
    "ObjectFile",
    "ObjectInfo",
    "Progress",
    "RangeRead",
    "RemoteBlob",
    "RemoteFile",
    "Retry",
    "RetryingBlob",
    "Unavailable",
    "absolute_url",
    "arrow_errors",
    "coalesce",
    "disk_errors",
    "fsync_directory",
    "fsync_file",
    "is_file_at",
    "make_directory",
    "open_blob",
    "read_into",
    "read_verified",
    "refuse_encrypted",
    "split_url",
    "storage_error",
    "upload_file",
    "validate_arrow",
    "write_all",
    "write_file",
]
