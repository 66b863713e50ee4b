"""A training loop, a run or a store -> is it I/O or the model: by how much, because of what, and what helps."""

from headrace.diagnosis.advice import Advice
from headrace.diagnosis.events import StepEvents
from headrace.diagnosis.evidence import Evidence
from headrace.diagnosis.limiter import Finding
from headrace.diagnosis.loop import DiagnosedLoader, diagnose
from headrace.diagnosis.options import DiagnoseOptions, StoreOptions
from headrace.diagnosis.page import diagnosis_parts, write_page
from headrace.diagnosis.result import Diagnosis
from headrace.diagnosis.run_steps import RunDiagnosis, diagnose_run
from headrace.diagnosis.store_stages import StageCeiling, StoreDiagnosis, diagnose_store, needed_tokens_per_s
from headrace.diagnosis.trial import Trial, try_change

__all__ = [
    "Advice",
    "DiagnoseOptions",
    "DiagnosedLoader",
    "Diagnosis",
    "Evidence",
    "Finding",
    "RunDiagnosis",
    "StageCeiling",
    "StepEvents",
    "StoreDiagnosis",
    "StoreOptions",
    "Trial",
    "diagnose",
    "diagnose_run",
    "diagnose_store",
    "diagnosis_parts",
    "needed_tokens_per_s",
    "try_change",
    "write_page",
]
