# Requests as messages. Loop thread.
#
#   REQUEST   Asked, form, with ASKED_TEXT the correlation id as text, text id, the bytes of the tensors of the form
#             (see parts.pxd); with ASKED_FIELDS the headers that it came with behind all (u32 n, n times two texts)
#   form      Asking, with FORM_PARAMETERS parameters, the outputs, the inputs without their bytes
#   output    Wanted, text name, with OUTPUT_PARAMETERS parameters, with OUTPUT_REGION a region
#
# Most requests have a form that an earlier one had: its bytes are compared, and what was made of them is used again.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.core.servable cimport Servable
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.memory.regions cimport RegionRegistry
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport Held, Lane
from triton_async.processes.parts cimport Shape

cdef packed struct Asked:
    uint8_t kind             # REQUEST
    uint8_t how
    uint32_t form_nbytes
    uint64_t number
    int64_t received_ns      # CLOCK_MONOTONIC, which all processes of a machine share
    int64_t end_by_ns
    uint64_t origin          # 0: none
    uint64_t sequence_id
    int32_t flags            # RequestFlag bits

cdef packed struct Asking:
    uint64_t model           # Servable.number of the model process
    int64_t version          # as asked
    uint64_t priority
    uint64_t timeout_us
    uint8_t how
    uint16_t n_outputs
    uint16_t n_inputs

cdef packed struct Wanted:
    uint8_t flags
    uint64_t classes

cdef enum:                   # Asking.how
    FORM_PARAMETERS = 1

cdef enum:                   # Wanted.flags
    OUTPUT_BINARY = 1
    OUTPUT_REGION = 2
    OUTPUT_ANYWHERE = 4
    OUTPUT_PARAMETERS = 8

cdef enum:                   # Asked.how
    ASKED_BINARY = 1
    ASKED_TEXT = 2
    ASKED_FIELDS = 4
    ASKED_LENDS = 8          # tensors of it are OURS, and lent under its number

# What is made of a form. Does not change once it is known, but for what its first request has found out.
cdef class Form:
    cdef bytes text
    cdef Servable model
    cdef ModelSignature signature    # that the model had
    cdef int64_t version
    cdef uint64_t priority
    cdef uint64_t timeout_us
    cdef dict parameters
    cdef list outputs                # of RequestedOutput; all requests have this very list, unless `placed`
    cdef list placed                 # (index, region, offset, nbytes) of outputs that go to one; or None
    cdef list names                  # of inputs
    cdef Shape *shapes
    cdef list places                 # (region, offset) of each input that is in one, else None; or None
    cdef bint fits                   # a request of it was found valid, with nothing that has to be looked at again:
    cdef int64_t rows
    cdef uint64_t wanted

    cdef int _read(self, Cursor cursor) except -1
    cdef int _read_output(self, Cursor cursor) except -1
    cdef int _read_inputs(self, Cursor cursor, int count) except -1

# Forms of one front-end's requests.
cdef class Forms:
    cdef dict known                  # bytes -> Form
    cdef Form last

    # None when it is not known.
    cdef Form find(self, const char *text, Py_ssize_t nbytes)
    # A request of the form was submitted. Passes over what can not be used again.
    cdef int learn(self, Form form, InferRequest request) except -1
    # A model that forms may be for is gone.
    cdef int clear(self) except -1

# `spare`: another Writer, empty, and empty again. `lends`: gets what has to stay while the model process reads it,
# under the request's number. Unavailable when the shared memory has no room.
cdef int write_request(Writer to, Writer spare, Lane lane, InferRequest request, uint64_t number, uint64_t model,
                       uint64_t origin, ModelSignature signature, list lends) except -1

# The front of a REQUEST whose kind was read.
cdef int read_head(Cursor cursor, Asked *asked) except -1
# The same of its first bytes, the kind among them.
cdef int read_first(const char *first, Py_ssize_t nbytes, Asked *asked) except -1
# The model that a form of so many bytes names.
cdef uint64_t model_of(Cursor cursor, uint32_t form_nbytes) except? 0
cdef Form read_form(const char *text, Py_ssize_t nbytes, Servable model)
# The request, of a cursor behind the form. `held`: what it is lent, or None. ServerError for a region that is not there
# any more; WireError for nonsense.
cdef InferRequest read_request(Cursor cursor, Lane lane, const Asked *asked, Form form, Held held,
                               RegionRegistry regions, SlabPool pool)
