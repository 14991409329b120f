# Typed access to parsed JSON, with the words of Triton's JSON helper.
#
# `what` names the place ("Unable to parse 'shape'") and goes before the reason; "" for the reason alone. Every
# failure is InternalError: that is the code Triton's helper gives, and clients see 500.

from libc.stdint cimport uint64_t

cpdef object member(object holder, str name, str what)
cpdef str as_string(object value, str what)
cpdef bint as_bool(object value, str what) except? True
cpdef uint64_t as_uint(object value, str what) except? 0
cpdef list as_array(object value, str what)
cpdef list members(object value, str what)
