"""Tree ensembles of XGBoost, LightGBM, scikit-learn and treelite, as Triton's FIL backend serves them, on the CPU.

Readers make an `Ensemble` of a model file, `layout` the arrays of it, `Forest` (csrc/forest.c) the answers, without the
GIL. Reading a file runs none of its code; pickles, which do, need the operator's leave.
"""

from triton_async.backends.fil.backend import FilBackend

__all__ = ["FilBackend"]
