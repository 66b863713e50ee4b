"""Tensors of safetensors files land in tensors that exist, whatever their type, layout and size; damage is refused."""

from __future__ import annotations

import json
import struct
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from headrace.errors import CheckpointError
from headrace.model import fill_tensors, read_headers, tensor_files
from headrace.model.tensor_files import DTYPES, read_header, tensors_equal
from headrace.storage import MemoryBlob, open_blob


@pytest.fixture
def small_requests(monkeypatch):
    """Requests of 256 bytes, so that small tensors are read in parts."""
    monkeypatch.setattr(tensor_files, "REQUEST_BYTES", 256)
    monkeypatch.setattr(tensor_files, "MAX_GAP", 32)
    monkeypatch.setattr(tensor_files, "SERIAL_ELEMENTS", 20)


def write(directory, files):
    directory.mkdir(exist_ok=True)
    for name, tensors in files.items():
        save_file(tensors, directory / name)
    return open_blob(directory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("small_requests")
def test_every_layout_and_type_gives_the_values_of_the_file(tmp_path, dtype):
    generator = torch.Generator().manual_seed(1)
    stored = {
        name: torch.randn(shape, generator=generator).to(kind)
        for name, shape, kind in [
            ("vector", (7,), torch.float32), ("matrix", (33, 29), torch.bfloat16), ("turned", (31, 27), torch.float32),
            ("heads", (10, 24), torch.float16), ("deep", (3, 5, 7, 9), torch.float64), ("none", (0, 4), torch.float32),
            ("scalar", (), torch.bfloat16), ("unused", (300,), torch.float32), ("strided", (50,), torch.float32),
        ]
    }  # fmt: skip
    names = list(stored)
    blob = write(tmp_path / "m", {"a.safetensors": {n: stored[n] for n in names[::2]},
                                  "b.safetensors": {n: stored[n] for n in names[1::2]}})  # fmt: skip
    whole = {name: torch.full_like(tensor, -1, dtype=dtype) for name, tensor in stored.items()}
    turned, heads = torch.zeros(27, 31, dtype=dtype), torch.zeros(24, 10, dtype=dtype)
    strided = torch.zeros(100, dtype=dtype)
    targets = {name: tensor for name, tensor in whole.items() if name != "unused"}
    targets |= {
        "turned": turned.T,
        "heads": heads.view(2, 3, 4, 10).permute(3, 1, 0, 2),
        "strided": strided[::2],
    }
    fill_tensors(blob, read_headers(blob, ["a.safetensors", "b.safetensors"]), targets)
    for name in ("vector", "matrix", "deep", "none", "scalar"):
        assert torch.equal(whole[name], stored[name].to(dtype)), name
    assert torch.equal(turned.T, stored["turned"].to(dtype))
    assert torch.equal(strided[::2], stored["strided"].to(dtype))
    assert not strided[1::2].any()
    expected = stored["heads"].view(10, 3, 2, 4).permute(2, 1, 3, 0).reshape(24, 10)
    assert torch.equal(heads, expected.to(dtype))
    assert (whole["unused"] == -1).all()


@pytest.mark.usefixtures("small_requests")
def test_reads_begin_in_the_order_of_the_targets_and_report_every_byte(tmp_path):
    tensors = {f"layers.{i}": torch.full((100,), float(i)) for i in range(12)}
    blob = write(tmp_path / "m", {"a.safetensors": tensors})
    entries = read_headers(blob, ["a.safetensors"])
    targets = {name: torch.zeros(100) for name in sorted(tensors, key=lambda n: -int(n.split(".")[1]))}
    requests = tensor_files._plan({name: entries[name] for name in targets})
    assert [pieces[0].name for pieces in requests[:2]] == ["layers.11", "layers.11"]
    seen = []
    fill_tensors(blob, entries, targets, progress=lambda done, total, note: seen.append((done, total, note)))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][:2] == (4800, 4800)
    assert "limited by the" in seen[-1][2]
    assert all((targets[name] == tensor).all() for name, tensor in tensors.items())


def test_small_tensors_share_a_request_and_large_ones_take_several(tmp_path):
    tensors = {f"n{i:03}": torch.zeros(10) for i in range(100)} | {"z": torch.zeros(5 << 20)}
    blob = write(tmp_path / "m", {"a.safetensors": tensors})
    requests = tensor_files._plan(read_headers(blob, ["a.safetensors"]))
    assert 3 <= len(requests) <= 4
    assert sum(piece.nbytes for pieces in requests for piece in pieces) == 100 * 40 + (20 << 20)


def test_memory_above_the_tensors_is_a_few_buffers(tmp_path):
    tensors = {f"n{i}": torch.zeros(4 << 20, dtype=torch.bfloat16) for i in range(16)}  # 128 MiB
    blob = write(tmp_path / "m", {"a.safetensors": tensors})
    targets = {name: torch.zeros(4 << 20) for name in tensors}
    tracemalloc.start()
    fill_tensors(blob, read_headers(blob, ["a.safetensors"]), targets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 40 << 20, f"{peak:,} bytes"


def test_a_tensor_is_compared_with_one_in_a_file(tmp_path):
    tensor = torch.randn(100, 30)
    blob = write(tmp_path / "m", {"a.safetensors": {"x": tensor.to(torch.bfloat16)}})
    entry = read_headers(blob, ["a.safetensors"])["x"]
    stored = tensor.to(torch.bfloat16).float()
    assert tensors_equal(blob, entry, stored)
    assert not tensors_equal(blob, entry, stored[:50])
    stored[99, 29] += 1
    assert not tensors_equal(blob, entry, stored)


def test_a_missing_tensor_and_another_size_are_refused_by_name(tmp_path):
    blob = write(tmp_path / "m", {"a.safetensors": {"x": torch.zeros(4)}})
    entries = read_headers(blob, ["a.safetensors"])
    with pytest.raises(CheckpointError, match="no tensor named 'y'"):
        fill_tensors(blob, entries, {"y": torch.zeros(4)})
    with pytest.raises(CheckpointError, match=r"x has shape \[4\], expected 5 elements"):
        fill_tensors(blob, entries, {"x": torch.zeros(5)})
    save_file({"x": torch.zeros(4)}, tmp_path / "m" / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"b\.safetensors: x is there twice, also in a\.safetensors"):
        read_headers(blob, ["a.safetensors", "b.safetensors"])


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path):
    blob = write(tmp_path / "m", {"a.safetensors": {"x": torch.ones(100)}})
    entries = read_headers(blob, ["a.safetensors"])
    path = tmp_path / "m" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"its weights cannot be read: .*a\.safetensors: ends at byte"):
        fill_tensors(blob, entries, {"x": torch.zeros(100)})


def raw(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start, stop, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HOSTILE = {
    "empty": b"",
    "seven bytes": b"1234567",
    "header longer than the file": raw({}, length=1 << 40),
    "header of no bytes": raw(b""),
    "not JSON": raw(b"{nothing"),
    "a list": raw([1, 2]),
    "negative offsets": raw({"x": tensor(-4, 0)}, bytes(4)),
    "shape and bytes differ": raw({"x": tensor(0, 8)}, bytes(8)),
    "a hole": raw({"x": tensor(0, 4), "y": tensor(8, 12)}, bytes(12)),
    "an overlap": raw({"x": tensor(0, 4), "y": tensor(0, 4)}, bytes(4)),
    "bytes behind the last tensor": raw({"x": tensor(0, 4)}, bytes(8)),
    "data cut": raw({"x": tensor(0, 4)}, bytes(3)),
    "no shape": raw({"x": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
    "a boolean size": raw({"x": tensor(0, 4, shape=(True,))}, bytes(4)),
    "one offset": raw({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4)),
    "a number for a tensor": raw({"x": 3}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_or_damaged_file_is_refused_by_its_name(request, content):
    blob = MemoryBlob(request.node.nodeid)
    blob.put("w.safetensors", content)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: not a whole safetensors file"):
        read_header(blob, "w.safetensors")


def test_a_type_that_torch_does_not_have_is_refused_by_name(request):
    blob = MemoryBlob(request.node.nodeid)
    blob.put("w.safetensors", raw({"x": tensor(0, 1, shape=(2,), dtype="F4")}, bytes(1)))
    with pytest.raises(CheckpointError, match="x is of type 'F4'; expected one of F64"):
        read_header(blob, "w.safetensors")


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000))
def test_a_header_is_read_as_the_library_reads_it_or_refused(tmp_path_factory, cut, flip):
    """A cut or a flipped bit never raises anything but our error, and never passes where the library refuses."""
    path = tmp_path_factory.mktemp("f") / "w.safetensors"
    save_file(
        {"x": torch.zeros(3, 5), "y": torch.zeros(2, dtype=torch.bfloat16)}, path, metadata={"format": "pt"}
    )
    data = bytearray(path.read_bytes())
    data[flip % len(data)] ^= 1 << (flip % 8)
    path.write_bytes(data[: len(data) - cut % 40 if cut % 2 else None])
    try:
        entries, metadata = read_header(open_blob(path.parent), path.name)
    except CheckpointError:
        return
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(entries)
        assert (file.metadata() or {}) == metadata
        for name, entry in entries.items():
            one = file.get_slice(name)
            assert (tuple(one.get_shape()), DTYPES[one.get_dtype()]) == (entry.shape, entry.dtype)
