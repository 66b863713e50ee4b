"""Files, lists, batch lines, conversations -> prompts."""
