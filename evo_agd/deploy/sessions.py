"""ONNX Runtime on the CPU, and what our files say of themselves; no torch, which is slow."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

SCALE, OVERLAP, MULTIPLE, WHOLE = "scale", "overlap", "multiple", "whole"  # ONNX metadata
ERRORS, FATAL = 3, 4  # the least severe of what ONNX Runtime writes to stderr


def session(path: Path, threads: int, *, severity: int = ERRORS) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = severity
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
