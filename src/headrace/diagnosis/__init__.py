"""A training loop, a run or a store -> is it I/O or the model: by how much, because of what, and what helps."""

from headrace.diagnosis.advice import Advice
from headrace.diagnosis.evidence import Evidence
from headrace.diagnosis.limiter import Finding
from headrace.diagnosis.loop import DiagnosedLoader, diagnose
from headrace.diagnosis.options import DiagnoseOptions
from headrace.diagnosis.result import Diagnosis

__all__ = ["Advice", "DiagnoseOptions", "DiagnosedLoader", "Diagnosis", "Evidence", "Finding", "diagnose"]
