"""All that a job is, but its work: what was asked for, that nobody else is at it, what it came to."""
