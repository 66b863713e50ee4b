"""Users, their items and batches of histories -> what a recommender trains on; arrays only, no input or output.

options      `InteractionOptions`: what a loader adds to a batch of interactions
positives    the files beside a store -> names of users and items, and the items that each user has
negatives    (seed, position, user) -> items that the user does not have: no state, so that a resumed run sees the same
jagged       ragged columns -> distinct rows and where each belongs; values of several columns in one buffer
"""

from headrace.interactions.jagged import distinct_rows, joined_values
from headrace.interactions.negatives import sample_negatives
from headrace.interactions.options import InteractionOptions
from headrace.interactions.positives import ITEMS_FILE, USERS_FILE, UserItems, read_keys, read_user_items

__all__ = [
    "ITEMS_FILE",
    "USERS_FILE",
    "InteractionOptions",
    "UserItems",
    "distinct_rows",
    "joined_values",
    "read_keys",
    "read_user_items",
    "sample_negatives",
]
