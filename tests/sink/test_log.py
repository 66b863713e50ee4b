import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import SinkError
from headrace.sink.log import FRAME, HEAD_BYTES, WriteAheadLog, frames

RUN = "0123456789abcdef" * 2
PAYLOADS = [b"a", b'{"row": 1}' * 5, b"\0" * 40, b"last"]


def written(path, payloads=PAYLOADS):
    log = WriteAheadLog(path, run_id=RUN)
    assert log.recover() == []
    for payload in payloads:
        log.append(payload)
    log.close()
    return path.read_bytes()


def recovered(path, data):
    path.write_bytes(data)
    log = WriteAheadLog(path, run_id=RUN)
    payloads = log.recover()
    log.append(b"behind")
    log.close()
    again = WriteAheadLog(path, run_id=RUN)
    assert again.recover() == [*payloads, b"behind"]
    again.close()
    return payloads


def test_a_log_torn_at_every_byte_gives_back_every_whole_frame(tmp_path):
    data = written(tmp_path / "whole")
    ends = [HEAD_BYTES]
    for payload in PAYLOADS:
        ends.append(ends[-1] + FRAME.size + len(payload))
    assert ends[-1] == len(data)
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends[1:])
        assert recovered(tmp_path / "torn", data[:cut]) == PAYLOADS[:whole], f"cut at byte {cut}"


def test_a_byte_flipped_anywhere_hides_no_frame_before_it_and_forges_none(tmp_path):
    data = written(tmp_path / "whole")
    for at in range(HEAD_BYTES, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        got = recovered(tmp_path / "damaged", bytes(damaged))
        assert got == PAYLOADS[: len(got)], f"byte {at}"
        assert len(got) < len(PAYLOADS)


def test_a_hole_of_zeros_is_no_frame(tmp_path):
    """Zeros are a frame of length 0 whose checksum, of nothing, is right."""
    assert google_crc32c.value(b"") == 0
    data = written(tmp_path / "whole")
    assert recovered(tmp_path / "hole", data + b"\0" * 4096) == PAYLOADS


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.binary(max_size=60))
def test_any_rubbish_behind_the_frames_is_cut_off(payloads, rubbish):
    data = b"".join(FRAME.pack(len(p), google_crc32c.value(p)) + p for p in payloads)
    got = [bytes(p) for p in frames(memoryview(data + rubbish))]
    assert got[: len(payloads)] == payloads


def test_the_frame_format_is_the_one_that_was_written_down(tmp_path):
    """Golden bytes: a log of an older headrace stays readable."""
    data = written(tmp_path / "log", [b"headrace"])
    assert data == (
        b"HRWAL\0\0\1"
        + bytes.fromhex(RUN)
        + struct.pack("<II", 8, google_crc32c.value(b"headrace"))
        + b"headrace"
    )


def test_a_log_of_another_run_is_refused(tmp_path):
    written(tmp_path / "log")
    log = WriteAheadLog(tmp_path / "log", run_id="f" * 32)
    with pytest.raises(SinkError, match=f"belongs to run {RUN}"):
        log.recover()
    log.close()


def test_an_empty_row_is_refused(tmp_path):
    log = WriteAheadLog(tmp_path / "log", run_id=RUN)
    log.recover()
    with pytest.raises(SinkError, match="a row of 0 bytes"):
        log.append(b"")
    log.close()
