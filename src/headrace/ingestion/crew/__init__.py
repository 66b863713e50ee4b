"""Units -> records, by worker processes on this machine or actors on a cluster."""
