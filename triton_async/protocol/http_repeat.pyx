"""Infer requests and replies that are like the last ones of their connection."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from triton_async.datatypes cimport DT_BYTES
from triton_async.infer.request cimport RequestedOutput
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport Tensor, view_dims
from triton_async.memory.buffer cimport wrap
from triton_async.memory.regions cimport RegionRegistry
from triton_async.protocol.http_scan cimport scan_infer

# Longer headers, or such of more inputs, are read each time: they would take as much memory of a connection.
cdef int64_t MOST_NBYTES = 4096
cdef int MOST_INPUTS = 16
# Behind so many headers in a row that were not known, only every so many-th is learned.
cdef enum:
    PATIENCE = 4


# __dealloc__ uses the fields.
@cython.final
@cython.no_gc_clear
cdef class Forms:
    def __dealloc__(self):
        free(self.forms)

    cdef int note(self, list tensors) except -1:
        cdef Form *forms = <Form *>malloc((len(tensors) + 1) * sizeof(Form))
        cdef Form *form = forms
        cdef Tensor tensor
        if forms == NULL:
            raise MemoryError
        free(self.forms)
        self.forms = forms
        self.names = []
        self.nbytes = 0
        for tensor in tensors:
            form.datatype = tensor.datatype
            form.rank = tensor.rank
            memcpy(form.dims, tensor.dims, sizeof(tensor.dims))
            form.count = tensor.element_count
            form.nbytes = tensor.nbytes
            form.slot = 0
            self.names.append(tensor.name)
            self.nbytes += tensor.nbytes
            form += 1
        return 0


@cython.final
cdef class KnownHeader:
    def __cinit__(self):
        self.inputs = Forms.__new__(Forms)

    cdef InferRequest again(self, int64_t model_version, ModelSignature signature, Buffer body, int64_t header_length):
        cdef InferRequest request
        cdef const char *id = NULL
        cdef Py_ssize_t id_length = 0
        cdef int64_t at = 0
        if signature is not self.signature or body.nbytes - header_length != self.inputs.nbytes:
            return None
        if self.identified:
            at = _behind_id(body.data, header_length, &id, &id_length)
        if header_length - at != len(self.text) or (
            memcmp(body.data + at, PyBytes_AS_STRING(self.text), header_length - at) != 0
        ):
            return None
        self.misses = 0
        request = InferRequest.__new__(InferRequest)
        request.model_name = signature.model_name
        request.model_version = model_version
        request.id = PyUnicode_DecodeASCII(id, id_length, NULL) if self.identified else self.id
        request.outputs = self.outputs
        request.priority = self.priority
        request.timeout_us = self.timeout_us
        request.sequence_id = self.sequence_id
        request.flags = self.flags
        request.binary_default = self.binary_default
        self._enter_inputs(request, body, header_length)
        if self.fits:
            request.fits = signature
            request.wanted = self.wanted
            request.rows = self.rows
        return request

    cdef int _enter_inputs(self, InferRequest request, Buffer body, int64_t offset) except -1:
        cdef Form *form = self.inputs.forms
        cdef Tensor tensor
        cdef str name
        request.inputs = []
        request.slots = [None] * len(self.signature.inputs)
        for name in self.inputs.names:
            tensor = view_dims(name, form.datatype, form.dims, form.rank, form.count, body, body.data + offset,
                               form.nbytes)
            offset += form.nbytes
            request.inputs.append(tensor)
            request.slots[form.slot] = tensor
            form += 1
        return 0

    cdef int learn(self, InferRequest request, ModelSignature signature, Buffer body, int64_t header_length) except -1:
        cdef const char *id
        cdef Py_ssize_t id_length
        cdef int64_t at
        self.misses += 1
        if self.misses > PATIENCE and self.misses % PATIENCE:
            return 0
        if header_length > MOST_NBYTES or len(request.inputs) > MOST_INPUTS or not _plain(request, body):
            return 0
        self.signature = None
        at = _behind_id(body.data, header_length, &id, &id_length)
        self.identified = at > 0
        self.text = PyBytes_FromStringAndSize(body.data + at, header_length - at)
        self.id = request.id
        self.outputs = request.outputs
        self.priority = request.priority
        self.timeout_us = request.timeout_us
        self.sequence_id = request.sequence_id
        self.flags = request.flags
        self.binary_default = request.binary_default
        self.wanted = request.wanted
        self.rows = request.rows
        self.signature = signature
        try:
            return self._learn_inputs(request)
        except BaseException:
            self.signature = None
            raise

    cdef int _learn_inputs(self, InferRequest request) except -1:
        cdef Tensor tensor
        cdef int i
        self.inputs.note(request.inputs)
        self.fits = True
        for i in range(len(request.inputs)):
            tensor = <Tensor>request.inputs[i]
            self.inputs.forms[i].slot = (<TensorSpec>self.signature.input_by_name[tensor.name]).index
            # The elements of strings are part of what is validated.
            self.fits = self.fits and tensor.datatype != DT_BYTES
        return 0


@cython.final
cdef class KnownReply:
    def __cinit__(self):
        self.outputs = Forms.__new__(Forms)

    cdef bint fits(self, InferRequest request, InferResponse response) noexcept:
        cdef Form *form = self.outputs.forms
        cdef Tensor tensor
        cdef int i
        if (
            self.asked is None or request.outputs is not self.asked or request.binary_default != self.binary_default
            or response.model_version != self.model_version or response.model_name is not self.model_name
            or response.parameters is not None or len(response.outputs) != len(self.outputs.names)
            or (request.id is not self.id and request.id != self.id)
        ):
            return False
        for i in range(len(self.outputs.names)):
            tensor = <Tensor>response.outputs[i]
            if (
                <str>self.outputs.names[i] is not tensor.name or tensor.datatype != form.datatype
                or tensor.rank != form.rank or tensor.nbytes != form.nbytes
                or memcmp(tensor.dims, form.dims, form.rank * sizeof(int64_t)) != 0
            ):
                return False
            form += 1
        return True

    cdef int learn(self, InferRequest request, InferResponse response, bytes head, bytes json) except -1:
        self.asked = None
        self.binary_default = request.binary_default
        self.id = request.id
        self.model_name = response.model_name
        self.model_version = response.model_version
        self.outputs.note(response.outputs)
        self.head = head
        self.json = json
        self.asked = request.outputs
        return 0


# Offset behind `{"id":"...",`, 0 for a header that does not begin so.
cdef int64_t _behind_id(const char *text, int64_t size, const char **id, Py_ssize_t *id_length) noexcept:
    cdef int64_t at = 5
    cdef unsigned char byte
    if size < 16 or memcmp(text, b'{"id"', 5) != 0:
        return 0
    at = _behind(text, size, at, c':')
    at = _behind(text, size, at, c'"') if at else 0
    if at == 0:
        return 0
    id[0] = text + at
    while at < size:
        byte = text[at]
        if byte == c'"':
            id_length[0] = text + at - id[0]
            return _behind(text, size, at + 1, c',')
        if byte == c'\\' or not 0x20 <= byte <= 0x7e:
            return 0
        at += 1
    return 0


# Offset behind `byte`, in front of which a space may stand; 0 when it does not follow.
cdef inline int64_t _behind(const char *text, int64_t size, int64_t at, char byte) noexcept:
    if at < size and text[at] == c' ':
        at += 1
    return at + 1 if at < size and text[at] == byte else 0


# Whether it has nothing to do with regions: those may be others by the next time.
cdef bint _plain(InferRequest request, Buffer body) except -1:
    cdef RequestedOutput output
    cdef Tensor tensor
    for tensor in request.inputs:
        if tensor.nbytes and tensor.buffer is not body:
            return False
    for output in request.outputs:
        if output.region is not None:
            return False
    return request.n_placements == 0 and not request.alone


def scan_twice(str model_name, int64_t model_version, ModelSignature signature, first, int64_t first_length, second,
               int64_t second_length, RegionRegistry regions=None):
    """For tests: what comes of the body `second` on a connection that has had `first`; None when it is not known."""
    cdef KnownHeader known = KnownHeader.__new__(KnownHeader)
    cdef Buffer body = wrap(first)
    cdef InferRequest request = scan_infer(model_name, model_version, signature, body, first_length, 0, regions)
    if request is None:
        return None
    signature.validate(request)
    known.learn(request, signature, body, first_length)
    return known.again(model_version, signature, wrap(second), second_length)
