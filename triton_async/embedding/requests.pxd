# Requests of this process: NumPy arrays and Python values to an InferRequest.

from triton_async.infer.request cimport InferRequest
