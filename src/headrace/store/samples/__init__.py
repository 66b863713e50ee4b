"""Rows with typed columns <-> a store of samples: images, labels, boxes, histories; the token store's files and rules.

In reading order:

    features       column types, named as `datasets.Features` names them
    columns        values of many rows: arrays, and ragged values with offsets
    block          columns <-> the stored bytes of one block, a record batch of Arrow
    table, index   the store's shards, a shard's blocks
    shard          columns -> a shard's files
    manifest, commit   shards' entries -> a snapshot
    blocks         block numbers -> blocks: mapped, or fetched and decoded, each checked
    locate         row numbers -> blocks and places inside
    store          `SampleStore`
    verify, inspect    every byte checked; a summary of a store
"""
