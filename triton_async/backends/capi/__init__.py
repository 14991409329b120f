"""Backends that are shared libraries of the TRITONBACKEND API: `libtriton_<name>.so`."""
