#!/usr/bin/env bash
# Installs the wheels of a folder (`make wheels`) beside what the machine's own python3 has, without a network, and
# prints the folder to put on PYTHONPATH. The machine brings CUDA, CuPy, torch and numpy.
set -euo pipefail
wheels=${1:?folder of wheels}
site=${SITE:-$PWD/build/gpu-site}
python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl >&2
# The sources beside the installed package are not compiled: with PYTHONSAFEPATH only these two folders are found.
ln -sfn "$PWD/tests" "$site/tests"
ln -sfn "$PWD/bench" "$site/bench"
echo "$site"
