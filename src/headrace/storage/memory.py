"""memory://NAME -> bytes by name in this process, for tests and examples."""

from __future__ import annotations

import errno
import threading

import xxhash

from headrace.storage.protocol import Data, ObjectInfo, as_buffers, check_path

_places: dict[str, dict[str, bytes]] = {}
_lock = threading.Lock()


class MemoryBlob:
    """Bytes in this process, shared by all blobs of the same name; see `Blob`."""

    def __init__(self, name: str) -> None:
        self._name = name
        with _lock:
            self._files = _places.setdefault(name, {})

    @property
    def url(self) -> str:
        """memory://NAME."""
        return f"memory://{self._name}"

    def size(self, path: str) -> int:
        """See `Blob.size`."""
        return len(self.get(path))

    def info(self, path: str) -> ObjectInfo:
        """See `Blob.info`."""
        data = self.get(path)
        return ObjectInfo(nbytes=len(data), version=xxhash.xxh3_128_hexdigest(data))

    def get(self, path: str) -> bytes:
        """See `Blob.get`."""
        try:
            return self._files[check_path(path)]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such object", f"{self.url}/{path}") from None

    def get_range(self, path: str, start: int, stop: int) -> bytes:
        """See `Blob.get_range`."""
        return self.get(path)[start:stop]

    def put(self, path: str, data: Data) -> None:
        """See `Blob.put`."""
        self._files[check_path(path)] = b"".join(as_buffers(data))

    def put_if_absent(self, path: str, data: Data) -> bool:
        """See `Blob.put_if_absent`."""
        with _lock:
            if check_path(path) in self._files:
                return False
            self.put(path, data)
            return True

    def list(self, prefix: str = "") -> list[str]:
        """See `Blob.list`."""
        return sorted(name for name in list(self._files) if name.startswith(prefix))

    def delete(self, path: str) -> None:
        """See `Blob.delete`."""
        self._files.pop(check_path(path), None)
