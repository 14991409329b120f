# JSON text as Triton's parser (rapidjson with NaN and Infinity) reads it and as its writer writes it.

# The value of a JSON document in any object with the buffer protocol: dict, list, str, int, float, bool, None.
# Integers stay `int` from -2^63 to 2^64-1 and are `float` beyond; of equal keys in an object the last counts.
# Raises InternalError (Triton's code for it) with Triton's text and offset for malformed text, and InvalidArg
# ("<what>JSON nesting depth ...") for what is nested deeper than the parser follows.
cpdef object loads(object source, str what=*)

# Compact JSON of such a value; dict order is kept. Numbers must be finite.
cpdef bytes dumps(object value)

# The body of every failed HTTP call: {"error":"<message>"}.
cpdef bytes error_body(str message)
