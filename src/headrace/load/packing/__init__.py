"""Best-fit packing: documents of a store -> a plan of rows that hold whole documents -> those rows' tokens."""
