"""Raw files -> shards, as a restartable job.

sources     what the user typed -> files             open      a file -> decompressed bytes
seekpoints  a large .gz -> where it can be entered
cuts        a buffer -> where records end            records   a range of a file -> blocks of records
parse_*     a block -> texts, and what is wrong      reader    a source and a range -> documents
plan        sources -> units of work                 schedule  which unit a free worker does next
work        a unit -> its shards and its record      pack      ids -> tokens in the stored type
pool        long-lived worker processes              local     units on this machine
journal     which units are done                     job       begin, go on, add, or nothing to do
prove       is the fast tokenizer engine exact?      finish    records -> the store's manifest
run         all of it: `ingest`
"""

from headrace.ingest.run import ingest
from headrace.ingest.summary import IngestSummary
from headrace.ingest.texts import read_texts

__all__ = ["IngestSummary", "ingest", "read_texts"]
