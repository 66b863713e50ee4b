"""Positions in a stream of tokens -> rows: mapped files, a cache of decoded blocks, and requests to a remote."""
