"""Values that folders exchange cannot be changed, and are made by keyword only."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from headrace import types

VALUES = [v for v in vars(types).values() if inspect.isclass(v) and dataclasses.is_dataclass(v)]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: v.__name__)
def test_a_value_cannot_be_changed(value):
    assert value.__dataclass_params__.frozen
    assert "__slots__" in vars(value)


def test_a_document_is_bytes_with_its_place():
    document = types.Document(text=b"x", source="a.txt", offset=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.text = b"y"
    with pytest.raises(TypeError):
        types.Document(b"x", "a.txt", 0)
