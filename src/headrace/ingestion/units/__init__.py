"""Sources -> units of work, their schedule, and the journal of what is done."""
