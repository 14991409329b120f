# Typed access to parsed JSON, with the words of Triton's JSON helper.
#
# `what` names the place ("Unable to parse 'shape'") and goes before the reason; "" for the reason alone. Every
# failure is InvalidArg, 400 to clients: it is their mistake, although Triton's helper calls it an internal error.

from libc.stdint cimport uint64_t

cpdef object member(object holder, str name, str what)
cpdef str as_string(object value, str what)
cpdef bint as_bool(object value, str what) except? True
cpdef uint64_t as_uint(object value, str what) except? 0
cpdef list as_array(object value, str what)
cpdef list members(object value, str what)
# Members that are not null: null is how some clients write what they leave out.
cpdef dict present(object value)
