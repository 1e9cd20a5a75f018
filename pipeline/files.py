"""How the pipeline reads small files: by the one reader, whose faults become PipelineError."""

from __future__ import annotations

from pipeline.errors import PipelineError
from teacher_cache.common.small_files import SmallFiles

FILES = SmallFiles(PipelineError)
