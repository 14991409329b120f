#!/usr/bin/env bash
# The tests that need a GPU, on a machine with one: tests/gpu/run.sh WHEELS [pytest options]
set -euo pipefail
cd "$(dirname "$0")/../.."
site=$(tests/gpu/install.sh "${1:?folder of wheels}")
shift
export PYTHONPATH="$site" PYTHONSAFEPATH=1 PATH="$site/bin:$PATH"
exec python3 -m pytest -m gpu -rs tests/gpu "$@"
