"""The version that server metadata, `--help` and the package report."""

VERSION = "0.1.0"

# Newest Triton release whose behaviour this version follows; clients compare it as X.Y.Z.
TRITON_VERSION = "2.73.0"
