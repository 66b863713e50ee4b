"""One unit -> its shards and its record, on whichever worker."""
