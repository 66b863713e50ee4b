"""An object is read as a file: forward with read-ahead, and from any position."""

from __future__ import annotations

import io

import pytest
from storage_fakes import BlobServer

from headrace.errors import SourceError
from headrace.storage import MemoryBlob, ObjectFile, split_url

DATA = bytes(range(256)) * 100


@pytest.fixture
def url(request):
    name = request.node.name.replace("/", "-")
    MemoryBlob(name).put("folder/x.bin", DATA)
    return f"memory://{name}/folder/x.bin"


@pytest.mark.parametrize("read_ahead", [1, 1000, 1 << 20])
def test_reads_and_seeks_give_the_bytes_of_the_object(url, read_ahead):
    with ObjectFile(url, read_ahead_bytes=read_ahead) as file:
        assert file.readable()
        assert file.seekable()
        assert file.read(10) == DATA[:10]
        assert file.seek(-5, io.SEEK_END) == len(DATA) - 5
        assert file.read() == DATA[-5:]
        assert file.read(1) == b""
        assert file.seek(300) == 300
        assert file.seek(10, io.SEEK_CUR) == file.tell() == 310
        assert io.BufferedReader(file).read() == DATA[310:]


def test_a_missing_object_is_an_error_with_its_url(url):
    with pytest.raises(SourceError, match=r"folder/no\.bin"):
        ObjectFile(url.replace("x.bin", "no.bin"))


def test_an_object_that_becomes_shorter_is_an_error(url):
    file = ObjectFile(url, read_ahead_bytes=100)
    file.read(50)
    MemoryBlob(split_url(url)[0].removeprefix("memory://")).put("folder/x.bin", b"")
    file.seek(5000)
    with pytest.raises(SourceError, match="is shorter than it was: no byte at 5000"):
        file.read(1)


def test_an_object_behind_http_is_read_by_ranges(request):
    blob = MemoryBlob(request.node.name)
    blob.put("x.bin", DATA)
    with BlobServer(blob) as server, ObjectFile(f"{server.url}/x.bin", read_ahead_bytes=10_000) as file:
        assert file.read() == DATA
