"""A store and an order -> batches: of this rank, from this position on, on the asked device."""

from headrace.load.loader import Loader
from headrace.load.mixture import Mixture, mix

__all__ = ["Loader", "Mixture", "mix"]
