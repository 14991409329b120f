# What crosses from instances to the loop: csrc/event.h.

from libc.stdint cimport int32_t

cdef extern from "event.h":
    enum: TA_EXECUTED
    enum: TA_RESPONSE
    enum: TA_RELEASED
    enum: TA_ERRAND
    ctypedef struct ta_message:
        ta_message *next
        void *owner
        int32_t event
