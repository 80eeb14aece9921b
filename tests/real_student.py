"""SmolLM2-135M-Instruct, unpacked once for all processes of a test run: a folder loads faster than a GGUF file."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from filelock import FileLock

FOLDER = "RSR_DATASETS_TEST_STUDENTS"
"""The environment variable with a folder that all processes of a test run share."""


@functools.cache
def smollm2_folder() -> str:
    """Weights in float32 and the tokenizer, as safetensors."""
    from champ import save_smollm2

    folder = Path(os.environ[FOLDER], "smollm2")
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            save_smollm2(folder)
    return str(folder)
