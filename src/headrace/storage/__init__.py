"""Bytes anywhere: local files, memory and object stores behind one small interface.

blob      bytes by name under a URL: the interface, local directories, memory
remote    the same on S3, GCS, Azure and HTTP, with retries
cache     blocks fetched once per machine, bounded and shared by processes
"""

from headrace.storage.blob import Blob, open_blob

__all__ = ["Blob", "open_blob"]
