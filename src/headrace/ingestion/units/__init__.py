"""Sources -> units of work: planned, handed out, written down when they are done."""
