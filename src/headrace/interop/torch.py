"""A loader -> the dataset of a torch.utils.data.DataLoader, for code that insists on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from headrace.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace.load import Batch, Loader


class LoaderDataset(IterableDataset[Any]):
    """The loader's batches as an IterableDataset: `DataLoader(LoaderDataset(loader), batch_size=None)`.

    No worker process is needed or allowed: each would deliver every batch again, and handing a batch from
    process to process costs several times what making it costs. The state is the loader's, so that torchdata's
    StatefulDataLoader resumes exactly too.
    """

    def __init__(self, loader: Loader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch[Any]]:
        if get_worker_info() is not None:
            raise ConfigError(
                "a loader in DataLoader workers: every worker would deliver every batch again. Use "
                "num_workers=0; the loader makes batches ahead by threads where that helps"
            )
        return iter(self.loader)

    def __len__(self) -> int:
        """Batches of the whole run; see `Loader.__len__`."""
        return len(self.loader)

    def state_dict(self) -> dict[str, int | str]:
        """The loader's state."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on at a saved position; see `Loader.load_state_dict`."""
        self.loader.load_state_dict(state)
