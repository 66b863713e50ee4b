"""Records with a given and a learned part -> documents: which kind a record is, its messages, its chat template."""

from headrace.ingestion.records.chat import chat_options
from headrace.ingestion.records.render import Fault, RecordRenderer

__all__ = ["Fault", "RecordRenderer", "chat_options"]
