"""Text to a language model, and its words back out; nothing waits, nothing is lost."""
