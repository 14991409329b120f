"""Requests as messages: writing them, and reading them without trust."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from triton_async.backends.python.isolated.wire cimport Cursor, Writer, cursor_over
from triton_async.core.servable cimport Servable
from triton_async.datatypes cimport DT_BYTES
from triton_async.infer.request cimport InferRequest, RequestedOutput
from triton_async.infer.signature cimport ModelSignature, TensorSpec
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.buffer cimport Buffer
from triton_async.memory.regions cimport RegionRegistry
from triton_async.memory.slab cimport SlabPool
from triton_async.processes.lane cimport REQUEST, Held, Lane, put_text, take_text
from triton_async.processes.parts cimport (
    INLINE,
    OURS,
    REGION,
    Shape,
    copied,
    lent,
    put_parameters,
    put_region,
    put_tensor,
    take_parameters,
    take_shape,
    view_of,
)

from triton_async import errors
from triton_async.backends.python.isolated.wire import WireError
from triton_async.errors import Unavailable
from triton_async.processes.defines import FORM_NBYTES, MOST_FORMS
from triton_async.processes.lane import NO_ROOM

cdef Py_ssize_t _FORM_NBYTES = FORM_NBYTES
cdef Py_ssize_t _MOST_FORMS = MOST_FORMS
# Inputs, or outputs, of one message.
cdef int MOST = 0xFFFF


# -- writing ---------------------------------------------------------------------------------------


cdef int write_request(Writer to, Writer spare, Lane lane, InferRequest request, uint64_t number, uint64_t model,
                       uint64_t origin, ModelSignature signature, list lends) except -1:
    cdef Asked asked
    asked.kind = REQUEST
    asked.form_nbytes = 0
    asked.how = ASKED_BINARY if request.binary_default else 0
    asked.number = number
    asked.received_ns = request.received_ns
    asked.end_by_ns = request.end_by_ns
    asked.origin = origin
    asked.flags = request.flags
    asked.sequence_id = 0
    if type(request.sequence_id) is str:
        asked.how |= ASKED_TEXT
    else:
        asked.sequence_id = request.sequence_id or 0
    fields = request.trace_parent
    if type(fields) is list:
        asked.how |= ASKED_FIELDS
    to.raw(<char *>&asked, sizeof(Asked))
    spare.size = 0
    try:
        _put_form(to, spare, lane, request, model, signature, lends)
        asked.form_nbytes = <uint32_t>(to.size - sizeof(Asked))
        if lends:
            asked.how |= ASKED_LENDS
        memcpy(to.data, &asked, sizeof(Asked))
        if asked.how & ASKED_TEXT:
            put_text(to, request.sequence_id)
        put_text(to, request.id)
        to.raw(spare.data, spare.size)
    finally:
        spare.size = 0
    if asked.how & ASKED_FIELDS:
        to.u32(<uint32_t>min(len(fields), 1000))
        for name, value in fields[:1000]:
            put_text(to, name)
            put_text(to, value)
    return 0


# The bytes of tensors to `data`.
cdef int _put_form(Writer to, Writer data, Lane lane, InferRequest request, uint64_t model, ModelSignature signature,
                   list lends) except -1:
    cdef Asking asking
    cdef RequestedOutput output
    cdef Tensor tensor
    cdef int64_t inlined = 0
    if len(request.inputs) > MOST or len(request.outputs) > MOST:
        raise Unavailable(NO_ROOM)
    asking.model = model
    asking.version = request.model_version
    asking.priority = request.priority
    asking.timeout_us = request.timeout_us
    asking.how = FORM_PARAMETERS if request.parameters else 0
    asking.n_outputs = <uint16_t>len(request.outputs)
    asking.n_inputs = <uint16_t>len(request.inputs)
    to.raw(<char *>&asking, sizeof(Asking))
    if asking.how & FORM_PARAMETERS:
        put_parameters(to, request.parameters)
    for output in request.outputs:
        _put_output(to, output)
    for tensor in request.inputs:
        put_tensor(to, data, lane, tensor, signature.input_by_name, &inlined, lends, None)
    return 0


cdef int _put_output(Writer to, RequestedOutput output) except -1:
    cdef Wanted wanted
    wanted.flags = ((OUTPUT_BINARY if output.binary else 0) | (OUTPUT_REGION if output.region is not None else 0)
                    | (OUTPUT_ANYWHERE if output.anywhere else 0) | (OUTPUT_PARAMETERS if output.parameters else 0))
    wanted.classes = <uint64_t>output.classification
    to.raw(<char *>&wanted, sizeof(Wanted))
    put_text(to, output.name)
    if wanted.flags & OUTPUT_PARAMETERS:
        put_parameters(to, output.parameters)
    if wanted.flags & OUTPUT_REGION:
        put_region(to, output.region, output.region.data, output.region.nbytes)
    return 0


# -- forms -----------------------------------------------------------------------------------------


# __dealloc__ uses `shapes`.
@cython.final
@cython.no_gc_clear
cdef class Form:
    def __dealloc__(self):
        free(self.shapes)

    cdef int _read(self, Cursor cursor) except -1:
        cdef Asking asking
        memcpy(&asking, cursor._take(sizeof(Asking)), sizeof(Asking))
        self.version = asking.version
        self.priority = asking.priority
        self.timeout_us = asking.timeout_us
        if asking.how & FORM_PARAMETERS:
            self.parameters = take_parameters(cursor)
        self.outputs = []
        for _ in range(asking.n_outputs):
            self._read_output(cursor)
        self._read_inputs(cursor, asking.n_inputs)
        if cursor.at != cursor.end:
            raise WireError("a request with a form of another length")
        return 0

    cdef int _read_output(self, Cursor cursor) except -1:
        cdef Wanted wanted
        cdef dict parameters = None
        cdef str name
        memcpy(&wanted, cursor._take(sizeof(Wanted)), sizeof(Wanted))
        name = take_text(cursor)
        if wanted.flags & OUTPUT_PARAMETERS:
            parameters = take_parameters(cursor)
        if wanted.flags & OUTPUT_REGION:
            if self.placed is None:
                self.placed = []
            self.placed.append((len(self.outputs), take_text(cursor), cursor.u64(), cursor.u64()))
        self.outputs.append(
            RequestedOutput(name, wanted.flags & OUTPUT_BINARY != 0, <int64_t>wanted.classes, parameters, None,
                            wanted.flags & OUTPUT_ANYWHERE != 0)
        )
        return 0

    cdef int _read_inputs(self, Cursor cursor, int count) except -1:
        cdef tuple specs = self.signature.inputs
        cdef Shape *shape
        cdef int i
        self.names = []
        self.shapes = <Shape *>calloc(count + 1, sizeof(Shape))
        if self.shapes == NULL:
            raise MemoryError
        for i in range(count):
            shape = &self.shapes[i]
            self.names.append(take_shape(cursor, shape, specs))
            if shape.place == REGION:
                if self.places is None:
                    self.places = [None] * count
                self.places[i] = (take_text(cursor), cursor.u64())
                if cursor.u64() != <uint64_t>shape.nbytes:
                    raise WireError("a part of a region of another length")
            elif shape.place != INLINE and shape.place != OURS:
                raise WireError("a tensor that is nowhere")
        return 0


cdef Form read_form(const char *text, Py_ssize_t nbytes, Servable model):
    cdef Form form = Form.__new__(Form)
    form.text = PyBytes_FromStringAndSize(text, nbytes)
    form.model = model
    form.signature = model.signature
    form._read(cursor_over(PyBytes_AS_STRING(form.text), nbytes, form.text))
    return form


@cython.final
cdef class Forms:
    def __cinit__(self):
        self.known = {}

    cdef Form find(self, const char *text, Py_ssize_t nbytes):
        cdef Form form = self.last
        if form is not None and PyBytes_GET_SIZE(form.text) == nbytes and (
            memcmp(PyBytes_AS_STRING(form.text), text, nbytes) == 0
        ):
            return form
        if nbytes > _FORM_NBYTES or not self.known:
            return None
        form = <Form>self.known.get(PyBytes_FromStringAndSize(text, nbytes))
        if form is not None:
            self.last = form
        return form

    cdef int learn(self, Form form, InferRequest request) except -1:
        cdef int i
        if form is self.last:
            return 0
        if (PyBytes_GET_SIZE(form.text) > _FORM_NBYTES or form.parameters or form.placed or form.places
                or request.n_placements or request.alone):
            return 0
        form.rows = request.rows
        form.wanted = request.wanted
        # That of a request which another load of the model has taken in its place is no news.
        form.fits = form.model.signature is form.signature and not form.model.draining
        for i in range(len(form.names)):
            # The elements of strings are part of what is validated.
            if form.shapes[i].datatype == DT_BYTES:
                form.fits = False
            if form.fits:
                form.shapes[i].slot = (<TensorSpec>form.signature.input_by_name[form.names[i]]).index
        if len(self.known) >= _MOST_FORMS:
            self.known = {}
        self.known[form.text] = self.last = form
        return 0

    cdef int clear(self) except -1:
        self.known = {}
        self.last = None
        return 0


# -- reading ---------------------------------------------------------------------------------------


cdef int read_head(Cursor cursor, Asked *asked) except -1:
    asked.kind = REQUEST
    memcpy(<char *>asked + 1, cursor._take(sizeof(Asked) - 1), sizeof(Asked) - 1)
    return 0


cdef int read_first(const char *first, Py_ssize_t nbytes, Asked *asked) except -1:
    if nbytes < <Py_ssize_t>sizeof(Asked):
        raise WireError("a request that ends inside its front")
    memcpy(asked, first, sizeof(Asked))
    return 0


cdef uint64_t model_of(Cursor cursor, uint32_t form_nbytes) except? 0:
    cdef Asking asking
    if form_nbytes < sizeof(Asking) or form_nbytes > <uint64_t>(cursor.end - cursor.at):
        raise WireError("a request that ends inside its form")
    memcpy(&asking, cursor.at, sizeof(Asking))
    return asking.model


cdef InferRequest read_request(Cursor cursor, Lane lane, const Asked *asked, Form form, Held held,
                               RegionRegistry regions, SlabPool pool):
    cdef InferRequest request = InferRequest.__new__(InferRequest)
    cdef object problem = None
    cdef uint32_t count
    request.model_name = form.signature.model_name
    request.model_version = form.version
    request.priority = form.priority
    request.timeout_us = form.timeout_us
    request.parameters = form.parameters
    request.received_ns = asked.received_ns
    request.end_by_ns = asked.end_by_ns
    request.flags = asked.flags
    request.binary_default = asked.how & ASKED_BINARY != 0
    request.sequence_id = take_text(cursor) if asked.how & ASKED_TEXT else asked.sequence_id
    request.id = take_text(cursor)
    request.outputs = form.outputs
    if form.placed is not None:
        problem = _place_outputs(request, form, regions)
    problem = _take_inputs(cursor, lane, request, form, held, regions, pool) or problem
    if asked.how & ASKED_FIELDS:
        count = cursor.u32()
        request.trace_parent = [(take_text(cursor), take_text(cursor)) for _ in range(count)]
    if problem is not None:
        raise problem
    return request


# A region may be gone by now: that is told behind the rest of the message.
cdef object _place_outputs(InferRequest request, Form form, RegionRegistry regions):
    cdef list outputs = list(form.outputs)
    cdef RequestedOutput output
    problem = None
    for index, place, offset, nbytes in form.placed:
        output = <RequestedOutput>outputs[index]
        try:
            region = regions.lease(place, offset, nbytes, True, False)
        except errors.ServerError as error:
            problem = problem or error
            continue
        outputs[index] = RequestedOutput(
            output.name, output.binary, output.classification, output.parameters, region, output.anywhere
        )
    request.outputs = outputs
    return problem


cdef object _take_inputs(Cursor cursor, Lane lane, InferRequest request, Form form, Held held,
                         RegionRegistry regions, SlabPool pool):
    cdef Shape *shape = form.shapes
    cdef list inputs = []
    cdef Buffer buffer
    cdef Tensor tensor
    cdef str name
    problem = None
    request.inputs = inputs
    for name in form.names:
        if shape.place == INLINE:
            tensor = copied(name, shape, cursor._take(<uint64_t>shape.nbytes), pool)
        elif shape.place == OURS:
            tensor = lent(name, shape, cursor.u64(), lane, held, pool, True)
        else:
            place, offset = form.places[shape - form.shapes]
            try:
                buffer = regions.lease(place, offset, <uint64_t>shape.nbytes, False, shape.datatype == DT_BYTES)
            except errors.ServerError as error:
                problem = error
                buffer = None
            if buffer is None:
                shape += 1
                continue
            tensor = view_of(name, shape, buffer, buffer.data)
        inputs.append(tensor)
        shape += 1
    if form.fits:
        _fill_slots(request, form)
    return problem


# As the signature has found a request of this form.
cdef int _fill_slots(InferRequest request, Form form) except -1:
    cdef list slots = [None] * len(form.signature.inputs)
    cdef Py_ssize_t i
    for i in range(len(request.inputs)):
        slots[form.shapes[i].slot] = request.inputs[i]
    request.slots = slots
    request.fits = form.signature
    request.rows = form.rows
    request.wanted = form.wanted
    return 0
