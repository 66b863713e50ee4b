"""What users can set of an ingest of interactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from typing_extensions import Doc

from headrace.errors import ConfigError
from headrace.ingestion.options import check_choice
from headrace.types import Flag

InteractionRows: TypeAlias = Literal["events", "users", "tokens"]
Split: TypeAlias = Literal["none", "last", "time"]
Part: TypeAlias = Literal["all", "train", "validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interactions:
    """Interactions.

    Which columns of a log say who, what and when, and what a row of the store is.
    """

    rows: Annotated[
        InteractionRows,
        Doc(
            "events: an interaction a row, with the user's history before it; users: a user a row, with all items in "
            "the order of time; tokens: a store of tokens, in which a user's items are a document."
        ),
    ] = "events"
    user_field: Annotated[
        str | None, Doc("Column of the user. Default: user, user_id, userId, ... whichever there is.")
    ] = None
    item_field: Annotated[
        str | None, Doc("Column of the item. Default: item, item_id, movieId, ... whichever there is.")
    ] = None
    time_field: Annotated[
        str | None, Doc("Column of the time. Default: time, timestamp, ... whichever there is.")
    ] = None
    features: Annotated[
        tuple[str, ...],
        Flag("--feature"),
        Doc("Another column to keep, numbers or categories; may be given several times."),
    ] = ()
    min_user_interactions: Annotated[
        int, Doc("Leave out users with fewer interactions; repeated with the items until none is left out.")
    ] = 1
    min_item_interactions: Annotated[int, Doc("Leave out items with fewer interactions.")] = 1
    split: Annotated[
        Split,
        Doc(
            "last: a user's last interaction is for the test and the one before for validation; time: all from "
            "--test-from on are for the test."
        ),
    ] = "none"
    part: Annotated[Part, Doc("The part of the split that the store gets.")] = "all"
    validation_from: Annotated[
        str | None, Doc("Split by time: first moment of the validation part, as the log writes times.")
    ] = None
    test_from: Annotated[str | None, Doc("Split by time: first moment of the test part.")] = None
    max_history: Annotated[int, Doc("Latest interactions of a history that a row holds.")] = 200
    session_gap: Annotated[
        float,
        Doc(
            "Interactions of a user with pauses of up to this time (in the log's unit; microseconds for dates) are one "
            "session, and have the history at its beginning."
        ),
    ] = 0.0
    keep_duplicates: Annotated[
        bool, Doc("Keep interactions of the same user, item and time; without it the first one is kept.")
    ] = False
    shard_bytes: int = 128 << 20
    """Bytes of rows in a shard."""

    def __post_init__(self) -> None:
        """Validate each field.

        Raises:
            ConfigError: naming the field.
        """
        features: Any = self.features  # callers without a type checker give a string or a list
        object.__setattr__(self, "features", (features,) if isinstance(features, str) else tuple(features))
        check_choice("rows", self.rows, InteractionRows)
        check_choice("split", self.split, Split)
        check_choice("part", self.part, Part)
        for name in ("min_user_interactions", "min_item_interactions", "max_history", "shard_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if not 0 <= self.session_gap < float("inf"):
            raise ConfigError(f"session_gap is {self.session_gap}; expected 0 or more")
        if self.part != "all" and self.split == "none":
            raise ConfigError(f"part is {self.part!r} without a split; expected split 'last' or 'time'")
        if (self.split == "time") != (self.test_from is not None):
            raise ConfigError(
                f"split is {self.split!r} and test_from is {self.test_from!r}; expected test_from with split 'time'"
            )
        if self.validation_from is not None and self.split != "time":
            raise ConfigError(
                f"validation_from is {self.validation_from!r} with split {self.split!r}; expected split 'time'"
            )
        if self.part == "validation" and self.split == "time" and self.validation_from is None:
            raise ConfigError("part is 'validation' of a split by time; expected validation_from as well")
        if self.rows == "tokens" and self.features:
            raise ConfigError(
                f"features are {', '.join(self.features)} with rows 'tokens'; a document has items only"
            )
        if len(set(self.features)) != len(self.features):
            raise ConfigError(f"features are {', '.join(self.features)}; expected each once")
