"""warc_sources.py: the bytes of plain, gzip and other files, whole and in order, and where gzip members end."""

import bz2
import gzip
import random

import pytest

from headrace.errors import SourceError
from headrace.ingestion.parse.warc_sources import open_source

MEMBERS = [b"WARC/1.0\r\n" + random.Random(i).randbytes(300_000) for i in range(3)]
WHOLE = b"".join(MEMBERS)


def chunks_of(source):
    chunks = []
    while (chunk := source.more()) is not None:
        chunks.append(chunk)
    return chunks


@pytest.fixture(params=["none", "gzip", "bz2"])
def opened(request, tmp_path):
    packed = {
        "none": WHOLE,
        "gzip": b"".join(map(gzip.compress, MEMBERS)),
        "bz2": bz2.compress(WHOLE),
    }[request.param]
    path = tmp_path / "a.warc"
    path.write_bytes(packed)
    source = open_source(str(path), request.param)
    yield source, len(packed)
    source.close()


def test_a_file_gives_all_its_bytes_and_the_position_reaches_its_end(opened):
    source, stored = opened
    assert b"".join(chunk.data for chunk in chunks_of(source)) == WHOLE
    assert source.stored_position() == stored


def test_chunks_of_a_gzip_file_end_where_its_members_do(tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(b"".join(map(gzip.compress, MEMBERS)))
    source = open_source(str(path), "gzip")
    members = [b""]
    for chunk in chunks_of(source):
        members[-1] += chunk.data
        if chunk.ends:
            members.append(b"")
    source.close()
    assert members == [*MEMBERS, b""]


def test_a_plain_file_is_read_from_any_byte(tmp_path):
    path = tmp_path / "a.warc"
    path.write_bytes(WHOLE)
    source = open_source(str(path), "none")
    assert source.nbytes == len(WHOLE)
    source.seek(12_345)
    assert b"".join(chunk.data for chunk in chunks_of(source)) == WHOLE[12_345:]
    source.close()


@pytest.mark.parametrize("compression", ["none", "gzip", "bz2"])
def test_a_missing_file_is_named(tmp_path, compression):
    with pytest.raises(SourceError, match=r"absent\.warc"):
        open_source(str(tmp_path / "absent.warc"), compression).more()
