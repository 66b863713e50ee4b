"""Images with labels, boxes or masks, or pairs of texts -> a store of samples, by a job that can be continued.

options      `Samples`: what users can set
plan         units of work: rows whose order and bytes do not depend on who does them
layouts      folders, annotation files, tars, tables -> the plan of a job
annotations  COCO, Pascal VOC, CSV and JSON lines -> rows
yolo         YOLO text files -> rows
pairs        records of two texts -> the plan of a job, and columns of tokens
tables       Parquet, Arrow and idx files -> plans and rows
rows         a unit -> its rows, bad ones rejected
build        a unit -> its shards and its record
job          sources -> a store: begin, continue, append, commit
"""

from headrace.ingestion.samples.options import SampleLayout, Samples

__all__ = ["SampleLayout", "Samples"]
