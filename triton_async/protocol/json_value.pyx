"""Typed access to parsed JSON, with the words of Triton's JSON helper. What it finds is the client's mistake."""

from triton_async.errors import InvalidArg


cdef object _fail(str what, str reason):
    raise InvalidArg(f"{what}: {reason}" if what else reason)


cpdef object member(object holder, str name, str what):
    if type(holder) is not dict or name not in <dict>holder:
        _fail(what, f"attempt to access non-existing object member '{name}'")
    return (<dict>holder)[name]


cpdef str as_string(object value, str what):
    if type(value) is not str:
        _fail(what, "attempt to access JSON non-string as string")
    return <str>value


cpdef bint as_bool(object value, str what) except? True:
    if type(value) is not bool:
        _fail(what, "attempt to access JSON non-boolean as boolean")
    return value is True


cpdef uint64_t as_uint(object value, str what) except? 0:
    if type(value) is not int or not 0 <= value <= 0xFFFFFFFFFFFFFFFF:
        _fail(what, "attempt to access JSON non-unsigned-integer as unsigned-integer")
    return value


cpdef list as_array(object value, str what):
    if type(value) is not list:
        _fail(what, "attempt to access JSON non-array as array")
    return <list>value


cpdef list members(object value, str what):
    if type(value) is not dict:
        _fail(what, "attempt to get members for non-object")
    return list((<dict>value).items())


cpdef dict present(object value):
    """The members that are not null, which says the same as leaving them out; {} for what is no object."""
    cdef dict holder
    if type(value) is not dict:
        return {}
    holder = <dict>value
    for item in holder.values():
        if item is None:
            return {key: kept for key, kept in holder.items() if kept is not None}
    return holder
