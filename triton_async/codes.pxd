# Codes of errors where no Python object is at hand (csrc/codes.h): errors.Code, same values.

cdef extern from "codes.h":
    enum: TA_CODE_UNKNOWN
    enum: TA_CODE_INTERNAL
    enum: TA_CODE_NOT_FOUND
    enum: TA_CODE_INVALID_ARG
    enum: TA_CODE_UNAVAILABLE
    enum: TA_CODE_UNSUPPORTED
    enum: TA_CODE_ALREADY_EXISTS
    enum: TA_CODE_CANCELLED
