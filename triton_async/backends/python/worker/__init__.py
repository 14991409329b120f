"""What runs a `model.py`, in the server and in a worker process alike: the standard library and numpy, nothing of ours
from outside, any CPython from 3.8 on.
"""
