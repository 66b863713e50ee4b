"""arrow/reader.py, index.py, table.py, manifest.py: no change of a store's bytes crashes or reads beyond the files.

Random mutations of small valid files are read in a child process, once as they are and once with every checksum
accepted, as a forger would write them. What is allowed is an error of ours, or values in range.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import random, shutil, sys, warnings
from pathlib import Path
import numpy as np
sys.path[:0] = [{here!r}, {storage!r}]
from store_fakes import make_store, sample_tokens
from headrace.errors import HeadraceError
from headrace.store import Store, export_megatron, index, manifest, verify_store

place, seed, count, forged = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "forged"
rng = random.Random(seed)
tokens, ends = sample_tokens(400, seed=seed)
make_store(place / "whole", tokens, ends, sizes=[150, 250], codec=["none", rng.choice(["zstd", "lz4"])])
with Store.open(place / "whole") as store:
    export_megatron(store, place / "whole-pair" / "corpus")
if forged:
    def unchecked(blob, path, nbytes, xxh3):
        try:
            return blob.get_range(path, 0, nbytes + (1 << 20))
        except FileNotFoundError as error:
            from headrace.errors import ShardError
            raise ShardError(str(error)) from error
    index._read_checked = unchecked
    manifest.FileSum.check = lambda self, data, where: None

def mutate(data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        kind, at = rng.randrange(6), rng.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 4] = rng.choice([0, 400, 1 << 31, (1 << 32) - 1]).to_bytes(4, "little")
        elif kind == 2:
            data[at : at + 8] = rng.choice([1 << 62, 1 << 63, (1 << 64) - 1]).to_bytes(8, "little")
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.randrange(1, 64)]
        else:
            data[at:at] = data[at : at + rng.randrange(1, 64)]
    return bytes(data)

def use(path):
    with Store.open(path, verify=not forged) as store:
        store.document_ends(0, store.num_tokens)
        stop = min(store.num_tokens, 2000)
        got = store.read(0, stop)
        starts = np.arange(0, max(1, stop - 40), 7)
        if stop > 40:
            store.gather(starts, 40)
            store.lookup(starts.reshape(1, -1), 40).read(0)
        if not forged:
            verify_store(store)
            assert store.num_tokens != 400 or not store.has_checksums or np.array_equal(got, tokens), "other tokens"

outcomes = {{}}
for number in range(count):
    source = place / rng.choice(["whole", "whole", "whole-pair"])
    files = sorted(file for file in source.rglob("*") if file.is_file())
    changed = rng.choice(files)
    copy = place / "copy"
    shutil.copytree(source, copy)
    target = copy / changed.relative_to(source)
    target.write_bytes(mutate(changed.read_bytes()))
    print(number, changed.name, file=sys.stderr, flush=True)
    try:
        use(copy)
        outcome = "read"
    except HeadraceError as error:
        outcome = type(error).__name__
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
    shutil.rmtree(copy)
print(outcomes)
"""


def run(tmp_path, seed, count, mode):
    here = Path(__file__).parent
    script = tmp_path / "fuzz.py"
    script.write_text(SCRIPT.format(here=str(here), storage=str(here.parent / "storage")))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(seed), str(count), mode],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-3000:]}"
    assert "Error" in done.stdout


@pytest.mark.parametrize("mode", ["damaged", "forged"])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutation_of_a_file_crashes_or_gives_other_tokens(tmp_path, seed, mode):
    run(tmp_path, seed, 150, mode)


@pytest.mark.campaign
@pytest.mark.parametrize("mode", ["damaged", "forged"])
@pytest.mark.parametrize("seed", range(100, 120))
def test_no_mutation_in_a_long_campaign_crashes_or_gives_other_tokens(tmp_path, seed, mode):
    run(tmp_path, seed, 3000, mode)
