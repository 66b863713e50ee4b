"""Everything of a job but its units: what it was asked for, its lock, its commit and its summary."""
