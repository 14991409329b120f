#!/usr/bin/env bash
# protobuf 6.33.6 for Python, and protoc of grpcio-tools 1.81.0, which reads with protobuf's C++: strings of the text
# format, as in a config.pbtxt, are not the same to both. A backslash before a letter that means nothing is an error
# in C++; Python keeps both characters and says nothing, so a file that its tools take is none for a server in C++. Of
# "\?", which the format has, C++ makes a question mark, and Python a backslash with one.
#
# Seen: "\d+" is \d+ in Python, and "Invalid escape sequence" in C++; "a\?" has three characters in Python, two in C++.
#
# What helps: to write a backslash as "\\", and a question mark as it is.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet protobuf==6.33.6 grpcio-tools==1.81.0
cat > show.py <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import google.protobuf
from google.protobuf import text_format
from google.protobuf.struct_pb2 import Value

INCLUDED = Path(__import__("grpc_tools").__file__).parent / "_proto"


def in_python(text: str) -> str:
    return text_format.Parse(text, Value()).string_value


def in_cpp(text: str) -> str | None:
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{INCLUDED}", "--encode=google.protobuf.Value",
               "google/protobuf/struct.proto"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        print(done.stderr.decode().strip())
        return None
    return Value.FromString(done.stdout).string_value


print("protobuf", google.protobuf.__version__)
for text, python, cpp in ((r"\d+", r"\d+", None), (r"a\?", r"a\?", "a?"), (r"\\d+", r"\d+", r"\d+")):
    found = in_python(f'string_value: "{text}"'), in_cpp(f'string_value: "{text}"')
    print(f'"{text}": {found[0]} in Python, {found[1]} in C++')
    assert found == (python, cpp)
PYTHON
venv/bin/python show.py
