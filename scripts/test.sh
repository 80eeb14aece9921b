#!/usr/bin/env bash
# Lint, type check and tests in an environment of their own. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
make_environment .venv-test test
export PATH="$PWD/.venv-test/bin:$PATH"
ruff check
ruff format --check
mypy
# Two workers, a file of tests at a time in the order of the files, each with one thread for the arithmetic.
OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
echo "Tests that ask a real vLLM were skipped: bash scripts/test_vllm.sh runs them"
