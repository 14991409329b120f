#!/usr/bin/env bash
# The GPU benchmark on a machine with one: bench/gpu/run.sh WHEELS [options of python -m bench.gpu]
set -euo pipefail
cd "$(dirname "$0")/../.."
site=$(tests/gpu/install.sh "${1:?folder of wheels}")
shift
export PYTHONPATH="$site" PYTHONSAFEPATH=1 PATH="$site/bin:$PATH"
exec python3 -m bench.gpu "$@"
