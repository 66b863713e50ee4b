"""The files of a run directory, and who may write them.

run_json                       what a run was started with; refuses another request by what differs
segments                       the starts of a run -> the recipe of every step
metrics, run_log  lines a step: metrics.jsonl, samples.jsonl, train.log
tracking, tracker_state, *_tracker  the same lines in TensorBoard, wandb, MLflow
run_lock, remote_lock          one process trains into a run
restart                        what `--restart` deletes
mirror                         a run directory -> its copy on an object store, and back
"""
