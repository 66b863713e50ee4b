"""Another library's engine -> finished rows by our rules."""
