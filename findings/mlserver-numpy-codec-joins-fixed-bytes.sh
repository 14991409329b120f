#!/usr/bin/env bash
# MLServer 1.7.1, NumpyCodec: an array of fixed-width bytes (NumPy's kind S) of N elements leaves as one element, all of
# its memory in one text with the padding's NULs between, under a shape that says N. The codec cannot read that itself.
# Arrays of kind U and of objects, with the same contents, leave as N elements.
#
# Seen: array([b"a", b"bc"]) leaves as shape [2, 1], data ["a\u0000bc"]; decode_input raises ValueError ("cannot reshape
# array of size 1 into shape (2,1)"); array(["a", "bc"]) leaves as ["a", "bc"].
#
# What helps: array.astype(object), or StringCodec with a list of str.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet mlserver==1.7.1
cat > show.py <<'PYTHON'
import json

import numpy as np
from mlserver.codecs import NumpyCodec


def sent(array: np.ndarray):
    return NumpyCodec.encode_input("X", array)


joined, texts, objects = (
    sent(np.array(values, kind)) for values, kind in (([b"a", b"bc"], "S2"), (["a", "bc"], "U2"), ([b"a", b"bc"], object))
)
try:
    NumpyCodec.decode_input(type(joined).model_validate_json(joined.model_dump_json()))
    problem = ""
except ValueError as raised:
    problem = str(raised)
leaves = [json.loads(one.model_dump_json())["data"] for one in (joined, texts, objects)]
print(f"mlserver 1.7.1: {joined.shape} {leaves[0]}: {problem}; {leaves[1]}")
assert joined.shape == [2, 1] and leaves == [["a\0bc"], ["a", "bc"], ["a", "bc"]]
assert problem == "cannot reshape array of size 1 into shape (2,1)"
PYTHON
venv/bin/python -W ignore show.py
