"""(seed, epoch, position) -> which row of which source; arithmetic only, no input or output, O(1) memory."""

from headrace.order.cursor import OrderSpec, position_from_state, state_from_position
from headrace.order.length_groups import LengthGroupedOrder
from headrace.order.mix import QuotaTable, Segment, quotas_from_weights
from headrace.order.permutation import permute, permute_many, round_keys
from headrace.order.ranks import MeshLayout, rank_slice
from headrace.order.stream import RowOrder, Shuffle, row_at

__all__ = [
    "LengthGroupedOrder",
    "MeshLayout",
    "OrderSpec",
    "QuotaTable",
    "RowOrder",
    "Segment",
    "Shuffle",
    "permute",
    "permute_many",
    "position_from_state",
    "quotas_from_weights",
    "rank_slice",
    "round_keys",
    "row_at",
    "state_from_position",
]
