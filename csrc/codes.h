/* The codes of errors, with the values of triton_async.errors.Code. A test compares the two. */
#ifndef TRITON_ASYNC_CODES_H
#define TRITON_ASYNC_CODES_H

enum ta_code {
    TA_CODE_UNKNOWN = 0,
    TA_CODE_INTERNAL = 1,
    TA_CODE_NOT_FOUND = 2,
    TA_CODE_INVALID_ARG = 3,
    TA_CODE_UNAVAILABLE = 4,
    TA_CODE_UNSUPPORTED = 5,
    TA_CODE_ALREADY_EXISTS = 6,
    TA_CODE_CANCELLED = 7
};

#endif
