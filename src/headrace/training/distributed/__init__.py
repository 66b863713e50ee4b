"""The processes of one run, and each process's part of the model.

rendezvous      the launcher's environment -> a key-value store of one attempt
process_group   the processes of a run: what they agree on, which of them died
liveness        which ranks live, whatever a collective says
process_name    a process -> a name that other processes of its machine can look at
layout          degrees of parallelism -> a DeviceMesh
model_parallel  a model and a mesh -> this process's part of it, parallel and filled
pipeline        pipeline stages, and the schedule of microbatches
"""
