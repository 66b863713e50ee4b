"""members.py: gzip members one after the other, and what follows a damaged one."""

import gzip
import io

import pytest

from headrace.ingestion.read.members import DamagedMemberError, GzipMembers

PARTS = [b"WARC/1 first" * 50, b"", b"WARC/1 second" * 40_000, b"WARC/1 third"]


def _read(data):
    """Contents of the members, and the faults among them."""
    members, found, faults = GzipMembers(io.BytesIO(data), begins=b"WARC/"), [], []
    while True:
        try:
            chunk = members.more()
        except DamagedMemberError as fault:
            faults.append(fault)
            continue
        if chunk is None:
            return found, faults
        if chunk.starts:
            found.append(b"")
        found[-1] += chunk.data


def test_chunks_begin_and_end_with_their_members():
    assert _read(b"".join(map(gzip.compress, PARTS))) == (PARTS, [])


def test_zeros_between_and_behind_members_are_padding():
    data = bytes(700).join(map(gzip.compress, PARTS)) + bytes(70_000)
    assert _read(data) == (PARTS, [])


@pytest.mark.parametrize("where", [0.0, 0.5, 0.9999])
def test_a_damaged_member_costs_no_other(where):
    packed = list(map(gzip.compress, PARTS))
    damaged = bytearray(packed[2])
    damaged[int(where * len(damaged))] ^= 0x55
    found, (fault, *others) = _read(packed[0] + bytes(damaged) + packed[3])
    assert (found[0], found[-1], others) == (PARTS[0], PARTS[3], [])
    assert (fault.resumed, fault.truncated) == (True, False)
    assert f"stored byte {len(packed[0]):,}" in str(fault)


def test_bytes_between_members_are_named():
    packed = list(map(gzip.compress, PARTS))
    found, (fault,) = _read(packed[0] + b"\x1f\x8b\x08 no member" + packed[3])
    assert found == [PARTS[0], PARTS[3]]
    assert fault.resumed


def test_a_file_that_ends_inside_a_member_is_truncated():
    packed = list(map(gzip.compress, PARTS))
    for cut in (1, 8, len(packed[3]) - 5):
        found, (fault,) = _read(packed[0] + packed[3][:-cut])
        assert (fault.truncated, fault.resumed, found[0]) == (True, False, PARTS[0])
