"""Whole documents side by side in rows: the best-fit plan, its rows, and where documents lie in them."""
