"""Predictions -> files that readers can trust: each key stored once, whatever was killed on the way."""

from headrace.sink.commit import Sink, run_id
from headrace.sink.read import count_predictions, read_predictions, scan_predictions
from headrace.sink.schema import SCHEMA

__all__ = ["SCHEMA", "Sink", "count_predictions", "read_predictions", "run_id", "scan_predictions"]
