from hypothesis import given
from hypothesis import strategies as st

from headrace.generation.prefix_cache import block_keys, root_key

IDS = st.lists(st.integers(0, 3), max_size=20)


@given(one=IDS, other=IDS, size=st.integers(1, 5))
def test_keys_are_equal_exactly_as_far_as_the_tokens_are(one, other, size):
    keys = [block_keys(ids, root=b"r", block_tokens=size) for ids in (one, other)]
    assert [len(found) for found in keys] == [len(one) // size, len(other) // size]
    for number, (mine, theirs) in enumerate(zip(*keys, strict=False), start=1):
        assert (mine == theirs) == (one[: number * size] == other[: number * size])


def test_no_key_is_shared_by_two_models_types_shapes_or_scopes():
    base = {"model": "m", "dtype": "float32", "shape": (2, 3), "scope": ""}
    changes = {"model": "n", "dtype": "bfloat16", "shape": (2, 4), "scope": "key"}
    roots = {root_key(**base), *(root_key(**base | {name: value}) for name, value in changes.items())}
    assert len(roots) == 5


def test_keys_never_change():
    """Directories of earlier versions stay useful; raise FORMAT where they must not."""
    root = root_key(model="m", dtype="float32", shape=(2, 1, 1, 2, 4), scope="")
    assert block_keys([1, 2, 3], root=root, block_tokens=2) == ["44e7453b7dcf590f18240dedbab50b2b48111b2c"]
