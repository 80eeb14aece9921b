#!/usr/bin/env bash
# Scores real trajectories of four teachers, and human solutions, for a real student: a few minutes on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .demo/venv demo
export TQDM_DELAY=5  # seconds: no bars for what takes less
exec .demo/venv/bin/python scripts/demo.py "$@"
