"""A loader -> the dataset of a torch DataLoader, or a whole DataLoader, for code that insists on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from headrace.errors import ConfigError
from headrace.load import WITH_ACCELERATE, called_by_accelerate, called_by_lightning, iterated_by_accelerate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from headrace.load import Batch, Loader


def dataloader(
    loader: Loader[Any], *, collate_fn: Callable[[Batch[Any]], Any] | None = None
) -> DataLoader[Any]:
    """A torch DataLoader that yields the loader's batches, for code that checks for that class.

    accelerate's `prepare` and the `setup_dataloaders` of Lightning's Fabric leave it as it is: the loader already
    gives each rank its own rows. Its `state_dict` and `load_state_dict` are the loader's.

    Args:
        loader: any; see `Loader`.
        collate_fn: from a batch to what is yielded; the batch itself by default.
    """
    return _LoaderDataLoader(loader, collate_fn)


class LoaderDataset(IterableDataset[Any]):
    """The loader's batches as an IterableDataset: `DataLoader(LoaderDataset(loader), batch_size=None)`.

    Each iteration is a pass of the loader. Worker processes are refused: each would deliver every batch again, and
    handing a batch from process to process costs several times what making it costs. The state is the loader's, so
    that torchdata's StatefulDataLoader resumes exactly too.
    """

    def __init__(self, loader: Loader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch[Any]]:
        if get_worker_info() is not None:
            raise ConfigError(
                "a loader in DataLoader workers: every worker would deliver every batch again. Use "
                "num_workers=0; the loader makes batches ahead by threads where that helps"
            )
        if called_by_lightning():
            raise ConfigError(
                "Lightning does not save the state of a DataLoader: a resumed run would read from the beginning. Give "
                "it the loader itself: trainer.fit(model, loader)"
            )
        if iterated_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)
        # A generator, which checks when the first batch is taken: Lightning hides what raises before.
        yield from self.loader

    @property
    def generator(self) -> None:
        """None: there is no random state. accelerate looks here before it shards the dataset, which is refused."""
        if called_by_accelerate():
            raise ConfigError(WITH_ACCELERATE)

    def __len__(self) -> int:
        """Batches of the next pass; see `Loader.__len__`."""
        return len(self.loader)

    def state_dict(self) -> dict[str, int | str]:
        """The loader's state."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on at a saved position; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)


class _Batches(LoaderDataset):
    def __iter__(self) -> Iterator[Batch[Any]]:
        return iter(self.loader)


class _LoaderDataLoader(DataLoader[Any]):
    # accelerate takes a DataLoader with this mark for one that it has prepared.
    _is_accelerate_prepared = True

    def __init__(self, loader: Loader[Any], collate_fn: Callable[[Batch[Any]], Any] | None) -> None:
        convert: Callable[[Any], Any] = collate_fn or _unchanged
        super().__init__(_Batches(loader), batch_size=None, collate_fn=convert)
        self.loader = loader

    def state_dict(self) -> dict[str, int | str]:
        """The loader's state."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on at a saved position; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)


def _unchanged(batch: Batch[Any]) -> Batch[Any]:
    return batch
