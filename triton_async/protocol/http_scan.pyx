"""Scanner of the plain infer JSON: printable ASCII strings without escapes, unsigned integers, inputs in binary form or
in shared memory.

Everything else (escapes, `data`, other keys, the same key twice, errors) is declined as a whole.
"""

cimport cython
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from triton_async.datatypes cimport DT_BYTES, DT_INVALID, elements, from_name
from triton_async.infer.request cimport FLAG_SEQUENCE_END, FLAG_SEQUENCE_START, RequestedOutput
from triton_async.infer.signature cimport TensorSpec
from triton_async.infer.tensor cimport TA_MAX_RANK, view_dims
from triton_async.memory.buffer cimport wrap
from triton_async.memory.regions cimport lease_region

from triton_async.defines import MAX_TENSORS_PER_REQUEST
from triton_async.errors import ServerError

cdef int MAX_TENSORS = MAX_TENSORS_PER_REQUEST
cdef uint64_t LARGEST = 0x7FFFFFFFFFFFFFFF
# As a literal in an expression it would be a Python integer.
cdef uint64_t GREATEST = 0xFFFFFFFFFFFFFFFF

# The names of the datatypes, so that a request need not make its own.
cdef tuple DATATYPES = (
    "FP32", "INT32", "INT64", "UINT8", "BYTES", "FP16", "BOOL", "FP64", "INT8", "UINT16", "INT16", "UINT32", "UINT64",
    "BF16",
)

# Keys seen in one object, to decline the second of a kind.
cdef enum:
    KEY_ID = 1
    KEY_INPUTS = 2
    KEY_OUTPUTS = 4
    KEY_PARAMETERS = 8
    KEY_NAME = 1
    KEY_SHAPE = 2
    KEY_DATATYPE = 4

# Parameters of one input or output.
cdef enum:
    HAS_SIZE = 1          # binary_data_size
    HAS_BINARY = 2        # binary_data
    HAS_CLASSES = 4       # classification
    HAS_REGION = 8        # shared_memory_region
    HAS_OFFSET = 16       # shared_memory_offset
    HAS_REGION_SIZE = 32  # shared_memory_byte_size

# A string in the text, without its quotes.
cdef struct Slice:
    const char *data
    Py_ssize_t length

cdef struct Parameters:
    int seen              # HAS_ bits
    uint64_t nbytes
    bint binary
    uint64_t classes
    Slice region
    uint64_t offset
    uint64_t region_nbytes


cdef InferRequest scan_infer(str model_name, int64_t model_version, ModelSignature signature, Buffer body,
                             int64_t header_length, int64_t received_ns, RegionRegistry regions):
    cdef Scanner scanner = Scanner.__new__(Scanner)
    cdef InferRequest request = InferRequest.__new__(InferRequest)
    request.model_name = model_name
    request.model_version = model_version
    request.id = ""
    request.inputs = []
    request.outputs = []
    request.sequence_id = 0
    request.received_ns = received_ns
    scanner.request = request
    scanner.signature = signature
    scanner.body = body
    scanner.regions = regions
    scanner.text = body.data
    scanner.size = header_length
    scanner.tensor_at = header_length
    if scanner.document():
        return request
    return None


# Methods return whether the text had the form; a False ends the scan.
@cython.final
@cython.freelist(4)
cdef class Scanner:
    """One pass over one header. Every read of the text goes through `peek`, `string` and `number`."""

    cdef InferRequest request
    cdef ModelSignature signature
    cdef Buffer body
    cdef RegionRegistry regions
    cdef const char *text
    cdef int64_t size
    cdef int64_t at
    cdef int64_t tensor_at           # first byte of the body that no input took

    # Next byte that is not white space, not taken; 0, which no JSON text has, at the end.
    cdef inline char peek(self) noexcept:
        cdef char byte
        while self.at < self.size:
            byte = self.text[self.at]
            if byte != c' ' and byte != c'\n' and byte != c'\t' and byte != c'\r':
                return byte
            self.at += 1
        return 0

    cdef inline bint take(self, char byte) noexcept:
        if self.peek() != byte:
            return False
        self.at += 1
        return True

    cdef bint string(self, Slice *found) noexcept:
        cdef int64_t start
        cdef unsigned char byte
        if not self.take(c'"'):
            return False
        start = self.at
        while self.at < self.size:
            byte = self.text[self.at]
            if byte == c'"':
                found.data = self.text + start
                found.length = self.at - start
                self.at += 1
                return True
            if byte == c'\\' or not 0x20 <= byte <= 0x7e:
                return False
            self.at += 1
        return False

    # A key and its colon.
    cdef inline bint key(self, Slice *found) noexcept:
        return self.string(found) and self.take(c':')

    cdef bint number(self, uint64_t *value) noexcept:
        cdef uint64_t digit
        cdef char byte = self.peek()
        cdef int64_t start = self.at
        value[0] = 0
        while self.at < self.size and c'0' <= self.text[self.at] <= c'9':
            digit = <uint64_t>(self.text[self.at] - c'0')
            if value[0] > (GREATEST - digit) // 10:
                return False
            value[0] = value[0] * 10 + digit
            self.at += 1
        if self.at == start or (byte == c'0' and self.at - start > 1):
            return False
        # A fraction or an exponent makes it another number.
        return self.at == self.size or not (
            self.text[self.at] == c'.' or self.text[self.at] == c'e' or self.text[self.at] == c'E'
        )

    cdef bint boolean(self, bint *value) noexcept:
        cdef char byte = self.peek()
        if byte == c't' and self.size - self.at >= 4 and memcmp(self.text + self.at, b"true", 4) == 0:
            value[0] = True
            self.at += 4
            return True
        if byte == c'f' and self.size - self.at >= 5 and memcmp(self.text + self.at, b"false", 5) == 0:
            value[0] = False
            self.at += 5
            return True
        return False

    # Behind a member or element: whether another follows; `good` turns False when neither `,` nor `close` comes.
    cdef inline bint more(self, char close, bint *good) noexcept:
        if self.take(c','):
            return True
        good[0] = self.take(close)
        return False

    cdef bint document(self) except -1:
        cdef Slice key
        cdef Slice text
        cdef int seen = 0
        cdef bint good = True
        if not self.take(c'{'):
            return False
        while True:
            if not self.key(&key):
                return False
            if _is(key, b"inputs", 6) and not seen & KEY_INPUTS:
                seen |= KEY_INPUTS
                if not self.inputs():
                    return False
            elif _is(key, b"outputs", 7) and not seen & KEY_OUTPUTS:
                seen |= KEY_OUTPUTS
                if not self.outputs():
                    return False
            elif _is(key, b"id", 2) and not seen & KEY_ID:
                seen |= KEY_ID
                if not self.string(&text):
                    return False
                self.request.id = _text(text)
            elif _is(key, b"parameters", 10) and not seen & KEY_PARAMETERS:
                seen |= KEY_PARAMETERS
                if not self.parameters():
                    return False
            else:
                return False
            if not self.more(c'}', &good):
                break
        return good and self.peek() == 0 and self.at == self.size and bool(seen & KEY_INPUTS) and (
            self.tensor_at == self.body.nbytes
        )

    cdef bint inputs(self) except -1:
        cdef bint good = True
        if not self.take(c'['):
            return False
        if self.take(c']'):
            return True
        while len(self.request.inputs) < MAX_TENSORS:
            if not self.input():
                return False
            if not self.more(c']', &good):
                return good
        return False

    cdef bint input(self) except -1:
        cdef Slice key
        cdef Slice name
        cdef Slice datatype
        cdef int64_t[TA_MAX_RANK] dims
        cdef int rank = 0
        cdef Parameters parameters
        cdef int seen = 0
        cdef bint good = True
        if not self.take(c'{'):
            return False
        while True:
            if not self.key(&key):
                return False
            if _is(key, b"name", 4) and not seen & KEY_NAME:
                seen |= KEY_NAME
                good = self.string(&name)
            elif _is(key, b"shape", 5) and not seen & KEY_SHAPE:
                seen |= KEY_SHAPE
                rank = self.shape(dims)
                good = rank >= 0
            elif _is(key, b"datatype", 8) and not seen & KEY_DATATYPE:
                seen |= KEY_DATATYPE
                good = self.string(&datatype)
            elif _is(key, b"parameters", 10) and not seen & KEY_PARAMETERS:
                seen |= KEY_PARAMETERS
                good = self.tensor_parameters(&parameters, HAS_SIZE)
            else:
                return False
            if not good:
                return False
            if not self.more(c'}', &good):
                break
        if not good or seen != KEY_NAME | KEY_SHAPE | KEY_DATATYPE | KEY_PARAMETERS:
            return False
        return self.add_input(name, datatype, dims, rank, &parameters)

    cdef bint add_input(self, Slice name, Slice datatype, const int64_t *dims, int rank,
                        const Parameters *parameters) except -1:
        cdef int number = _datatype(datatype)
        cdef int64_t count = elements(dims, rank)
        cdef Buffer source = self.body
        cdef uint64_t nbytes = parameters.nbytes
        cdef char *data = self.body.data + self.tensor_at
        if number == DT_INVALID or count < 0:
            return False
        if parameters.seen & HAS_REGION:
            if parameters.seen & HAS_SIZE:
                return False
            source = self.region(parameters, False, number == DT_BYTES)
            if source is None:
                return False
            nbytes = source.nbytes
            data = source.data
        elif parameters.seen != HAS_SIZE or nbytes > <uint64_t>(self.body.nbytes - self.tensor_at):
            return False
        else:
            self.tensor_at += <int64_t>nbytes
        self.request.inputs.append(view_dims(_own_name(self.signature.inputs, name), number, dims, rank, count, source,
                                             data, <int64_t>nbytes))
        return True

    # What the parameters name, whose HAS_REGION is set; None when there is no such thing.
    cdef Buffer region(self, const Parameters *parameters, bint writable, bint private):
        try:
            return lease_region(self.regions, _text(parameters.region), parameters.offset, parameters.region_nbytes,
                                writable, private)
        except ServerError:
            return None

    # The rank, -1 when declined.
    cdef int shape(self, int64_t *dims) noexcept:
        cdef uint64_t dim
        cdef int rank = 0
        cdef bint good = True
        if not self.take(c'['):
            return -1
        if self.take(c']'):
            return 0
        while rank < TA_MAX_RANK:
            if not self.number(&dim) or dim > LARGEST:
                return -1
            dims[rank] = <int64_t>dim
            rank += 1
            if not self.more(c']', &good):
                return rank if good else -1
        return -1

    # Members of `allowed`, and those of a region.
    cdef bint tensor_parameters(self, Parameters *found, int allowed) noexcept:
        cdef Slice key
        cdef int bit
        cdef bint good = True
        found.seen = 0
        found.nbytes = found.classes = found.offset = found.region_nbytes = 0
        found.binary = False
        if not self.take(c'{'):
            return False
        if self.take(c'}'):
            return True
        while True:
            if not self.key(&key):
                return False
            bit = self.tensor_parameter(key, found)
            if bit & (allowed | HAS_REGION | HAS_OFFSET | HAS_REGION_SIZE) == 0 or found.seen & bit:
                return False
            found.seen |= bit
            if not self.more(c'}', &good):
                break
        return good and (found.seen & HAS_REGION or not found.seen & (HAS_OFFSET | HAS_REGION_SIZE))

    # Its HAS_ bit; 0 when declined.
    cdef int tensor_parameter(self, Slice key, Parameters *found) noexcept:
        if _is(key, b"binary_data_size", 16):
            return HAS_SIZE if self.number(&found.nbytes) else 0
        if _is(key, b"binary_data", 11):
            return HAS_BINARY if self.boolean(&found.binary) else 0
        if _is(key, b"classification", 14):
            return HAS_CLASSES if self.number(&found.classes) else 0
        if _is(key, b"shared_memory_region", 20):
            return HAS_REGION if self.string(&found.region) else 0
        if _is(key, b"shared_memory_offset", 20):
            return HAS_OFFSET if self.number(&found.offset) else 0
        if _is(key, b"shared_memory_byte_size", 23):
            return HAS_REGION_SIZE if self.number(&found.region_nbytes) else 0
        return 0

    cdef bint outputs(self) except -1:
        cdef bint good = True
        if not self.take(c'['):
            return False
        if self.take(c']'):
            return True
        while len(self.request.outputs) < MAX_TENSORS:
            if not self.output():
                return False
            if not self.more(c']', &good):
                return good
        return False

    cdef bint output(self) except -1:
        cdef RequestedOutput found = RequestedOutput.__new__(RequestedOutput)
        cdef Slice key
        cdef Slice name
        cdef int seen = 0
        cdef bint good = True
        if not self.take(c'{'):
            return False
        while True:
            if not self.key(&key):
                return False
            if _is(key, b"name", 4) and not seen & KEY_NAME:
                seen |= KEY_NAME
                good = self.string(&name)
            elif _is(key, b"parameters", 10) and not seen & KEY_PARAMETERS:
                seen |= KEY_PARAMETERS
                good = self.output_parameters(found)
            else:
                return False
            if not good:
                return False
            if not self.more(c'}', &good):
                break
        if not good or not seen & KEY_NAME:
            return False
        found.name = _own_name(self.signature.outputs, name)
        self.request.outputs.append(found)
        return True

    cdef bint output_parameters(self, RequestedOutput found) except -1:
        cdef Parameters parameters
        if not self.tensor_parameters(&parameters, HAS_BINARY | HAS_CLASSES):
            return False
        if parameters.seen & HAS_REGION:
            if parameters.binary or parameters.seen & HAS_CLASSES:
                return False
            found.region = self.region(&parameters, True, False)
            return found.region is not None
        found.binary = parameters.binary
        found.classification = <int64_t>min(parameters.classes, LARGEST)
        return True

    cdef bint parameters(self) except -1:
        cdef Slice key
        cdef int seen = 0
        cdef int bit
        cdef bint good = True
        if not self.take(c'{'):
            return False
        if self.take(c'}'):
            return True
        while True:
            if not self.key(&key):
                return False
            bit = self.parameter(key)
            if bit == 0 or seen & bit:
                return False
            seen |= bit
            if not self.more(c'}', &good):
                return good

    # A bit that stands for the key; 0 when declined.
    cdef int parameter(self, Slice key) except -1:
        cdef InferRequest request = self.request
        cdef bint flag = False
        cdef Slice text
        if _is(key, b"binary_data_output", 18):
            if not self.boolean(&flag):
                return 0
            request.binary_default = flag
            return 1
        if _is(key, b"sequence_start", 14) or _is(key, b"sequence_end", 12):
            if not self.boolean(&flag):
                return 0
            if flag:
                request.flags |= FLAG_SEQUENCE_START if key.length == 14 else FLAG_SEQUENCE_END
            return 2 if key.length == 14 else 4
        if _is(key, b"priority", 8):
            return 8 if self.number(&request.priority) else 0
        if _is(key, b"timeout", 7):
            return 16 if self.number(&request.timeout_us) else 0
        if _is(key, b"sequence_id", 11):
            if self.peek() == c'"':
                if not self.string(&text):
                    return 0
                request.sequence_id = _text(text)
                return 32
            return 32 if self.sequence_number() else 0
        return 0

    cdef bint sequence_number(self) except -1:
        cdef uint64_t number
        if not self.number(&number):
            return False
        self.request.sequence_id = number
        return True


cdef inline bint _is(Slice text, const char *expected, Py_ssize_t length) noexcept:
    return text.length == length and memcmp(text.data, expected, length) == 0


cdef inline str _text(Slice text):
    return PyUnicode_DecodeASCII(text.data, text.length, NULL)


cdef inline bint _equals(str known, Slice text) except -1:
    cdef Py_ssize_t length
    cdef const char *data = PyUnicode_AsUTF8AndSize(known, &length)
    return length == text.length and memcmp(data, text.data, length) == 0


# The model's own string where the name is one of its tensors: no new object, and its hash is known.
cdef str _own_name(tuple specs, Slice text):
    cdef TensorSpec spec
    # With many tensors the comparison would cost more than the string, and with hostile names a lot more.
    if len(specs) <= 16:
        for spec in specs:
            if _equals(spec.name, text):
                return spec.name
    return _text(text)


cdef int _datatype(Slice text) except -1:
    for name in DATATYPES:
        if _equals(name, text):
            return from_name(name)
    return DT_INVALID


def scan(str model_name, int64_t model_version, ModelSignature signature, body, int64_t header_length,
         int64_t received_ns=0, RegionRegistry regions=None):
    """Python form of `scan_infer`, over any object with the buffer protocol. ValueError for an impossible length."""
    cdef Buffer buffer = wrap(body)
    if not 0 < header_length <= buffer.nbytes:
        raise ValueError("header_length must be 1 to the size of the body")
    return scan_infer(model_name, model_version, signature, buffer, header_length, received_ns, regions)
