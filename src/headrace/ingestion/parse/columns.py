"""A field's name and an Arrow table -> the values; a dotted name looks inside structs, maps and lists."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def split_name(names: list[str], name: str) -> tuple[str, tuple[str, ...]]:
    """The top-level column of a name, and the path inside it; a column of exactly this name comes first.

    >>> split_name(["a", "b.c"], "a.x.0"), split_name(["a", "b.c"], "b.c")
    (('a', ('x', '0')), ('b.c', ()))
    """
    if name in names:
        return name, ()
    top, *path = name.split(".")
    return top, tuple(path)


def type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """The type of a field; None where there is none. Of columns of one name, the first counts."""
    top, path = split_name(schema.names, name)
    if top not in schema.names:
        return None
    kind = schema.field(schema.names.index(top)).type
    for part in path:
        if pa.types.is_struct(kind):
            index = kind.get_field_index(part)
            if index < 0:
                return None
            kind = kind.field(index).type
        elif _is_list(kind) and part.isdecimal():
            kind = kind.value_type
        elif pa.types.is_map(kind):
            kind = kind.item_type
        else:
            return None
    return kind


def column_of(batch: pa.RecordBatch, name: str) -> Any:
    """A field's values, null where a struct is null, a list is too short, or a map has no such key.

    Args:
        batch: rows.
        name: a field that `type_of` has found.
    """
    top, path = split_name(batch.schema.names, name)
    column: Any = batch.column(batch.schema.get_field_index(top))
    for part in path:
        if pa.types.is_struct(column.type):
            column = pc.struct_field(column, part)
        elif pa.types.is_map(column.type):
            column = pc.map_lookup(column, part, "last")
        else:
            index = int(part)
            # A slice of fixed size has nulls where a list is shorter.
            column = pc.list_element(pc.list_slice(column, index, index + 1, return_fixed_size_list=True), 0)
    return column


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
