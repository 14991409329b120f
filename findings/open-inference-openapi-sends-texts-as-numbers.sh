#!/usr/bin/env bash
# open-inference-openapi 2.0.0.1, the client of the Open Inference protocol's working group: elements of a tensor become
# floating-point numbers wherever Python can read them as such, whatever the tensor's datatype. Texts of digits, "nan" or
# "1_000" leave as numbers, booleans as 1.0, and 64-bit integers lose what a double cannot hold.
#
# Seen: BYTES ["12", "1_000", "nan", "007", "x"] leave as [12.0, 1000.0, NaN, 7.0, "x"]; INT64 [9007199254740993] as
# [9007199254740992.0]; BOOL [true] as [1.0].
#
# What helps: texts that no number looks like (a prefix that the model takes off again); for large integers another client.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet open-inference-openapi==2.0.0.1
cat > show.py <<'PYTHON'
import json

from open_inference.openapi.types import RequestInput


def leaves_as(datatype: str, data: list) -> list:
    return json.loads(RequestInput(name="X", shape=[len(data)], datatype=datatype, data=data).json())["data"]


texts = leaves_as("BYTES", ["12", "1_000", "nan", "007", "x"])
(integer,), (truth,) = leaves_as("INT64", [9007199254740993]), leaves_as("BOOL", [True])
print(f"open-inference-openapi 2.0.0.1: {texts}, {integer!r}, {truth!r}")
assert [repr(text) for text in texts] == ["12.0", "1000.0", "nan", "7.0", "'x'"]
assert (type(integer), integer) == (float, 2.0**53)
assert (type(truth), truth) == (float, 1.0)
PYTHON
venv/bin/python show.py
