"""The backend contract. A backend inspects model files, loads versions and makes instances of them."""

from libc.stdint cimport int64_t

from triton_async.codes cimport TA_CODE_INTERNAL
from triton_async.datatypes cimport DT_BF16
from triton_async.infer.assembly cimport assemble, split_outputs
from triton_async.infer.batch cimport Batch, check_batch, closed_batch, ta_batch
from triton_async.infer.clock cimport ta_now_ns
from triton_async.infer.factory cimport ResponseFactory
from triton_async.infer.gather cimport ta_batch_fail, ta_gather
from triton_async.infer.request cimport InferRequest
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.tensor cimport Tensor
from triton_async.memory.slab cimport SlabPool

from triton_async.config.model_config import InstanceKind
from triton_async.errors import InternalError, ServerError, Unsupported
from triton_async.infer.tensor import from_numpy
from triton_async.memory.pools import Pools


class InferenceCall:
    """Who made an inference request inside the server, for `InferenceService`. Called on the loop thread; none of it
    may block or raise."""

    #: Any number of responses is expected; else the one of a model that is not decoupled.
    decoupled = False

    #: The InferRequests for whose sake it is made: it is cancelled when all of them are, and an execution that has one
    #: of them is taken to wait for it. None where that is not known: the execution of `caller` is taken to wait, and it
    #: is cancelled with the requests of that when it was submitted on the thread of the instance.
    askers = None

    #: Whether the execution of the askers waits for it: True, False for a thread or task beside the execution, None
    #: where that is not known. Then those of ordinary models, and what is submitted on the thread of the instance,
    #: count as waited for.
    held = None

    #: Whether the model tells of each response that it takes (`taken` of what `submit` returned). Where it does, the
    #: sender of responses that are not taken is held back.
    counts_reads = False

    #: The thread that submits it waits for its one response, and does nothing else meanwhile: the server may use it to
    #: run the request, and call `responded` there, inside `submit`. Only with `askers`.
    waits = False

    #: Where it `waits`: that thread is in the middle of what an engine's Python code must not be run in.
    bound = False

    def responded(self, response):
        """One InferResponse, in order; behind the final one none. May return a function that wakes who waits for it:
        it is called a little later, when the thread that is woken need not wait for this one."""
        raise Unsupported("this call takes no responses")

    def refused(self, error):
        """The ServerError with which the server did not take the request, or gave it up. No response follows."""
        raise Unsupported("this call takes no refusal")

    def released(self):
        """The request's inputs are read no more. Once, behind `refused` for a request that was not taken."""


class InferenceService:
    """What a backend whose models call other models (BLS) may ask of the server. Core has one; the app hands it down.
    Any thread but the loop's."""

    def submit(self, request, call, caller):
        """Sends a new InferRequest to the model and version that it names, and returns at once. What it returns, called
        without arguments, cancels the request, from any thread, at any time, and does nothing once it has ended; its
        method `taken(count=1)` says that so many more responses were taken. `call`: an
        InferenceCall. `caller`: the ModelInstance that calls. A request that could never be answered, because it waits
        for an instance that waits for it, is refused.

        Before it is taken the request is refused (DecoupledModel) if its model is decoupled and `call.decoupled` is
        False.
        """
        raise Unsupported("this service takes no requests")

    def signature(self, name, version):
        """The ModelSignature of the version of a model that would serve. ServerError."""
        raise Unsupported("this service knows no models")

    @property
    def keeps_inputs(self):
        """Whether tensors of a request may be read behind its release, for traces of them."""
        return False

    @property
    def over(self):
        """Whether the server has ended: what engines have not given back by then they may never give back."""
        return False

    def ask(self, what, texts, context=None):
        """A question or an order of the C API, by its name, with its `texts`: bytes, a number or None. Blocks.
        ServerError. `context` (contextvars): that in which the model that asks was loaded, for threads that have none.
        """
        raise Unsupported("this service answers no questions")

    def load_model(self, name, parameters):
        """Loads a model as a load request does, with its `parameters`, and waits. ServerError. What is called in the
        context (contextvars) of a load is waited for by that: it is refused where that would be a ring."""
        raise Unsupported("this service loads no models")

    def unload_model(self, name, unload_dependents):
        """Takes a model out of service, as an unload request does. ServerError."""
        raise Unsupported("this service unloads no models")

    def model_ready(self, name, version):
        """Whether a version of the model is READY, -1: any. False for an unknown one."""
        raise Unsupported("this service knows no models")


class Watcher:
    """What a backend whose engines are other processes may have the loop do: hear them on its own thread, which needs
    no other to be woken in between. Core has one; the app hands it down. Any thread."""

    def watch(self, fd, handler):
        """Has `handler()` called on the loop's thread whenever the descriptor is readable or at its end, until
        `forget`, and perhaps once more a little later. It must neither block nor take long. False: not any more, or not
        yet."""
        return False

    def forget(self, fd):
        """Not any more. The descriptor is still open."""


class Backend:
    """One engine, by its Triton name. Made at first use; holds what all its models share. Any thread."""

    name = ""

    #: InstanceKinds that it makes instances of. Asked on a load thread: may load the engine, but neither CUDA nor CuPy.
    kinds = (InstanceKind.CPU, InstanceKind.MODEL)

    #: Whether it knows `optimization.execution_accelerators`.
    accelerators = False

    #: Whether instances whose group names neither a kind nor a GPU are on the CPU, whatever GPUs there are.
    prefers_cpu = False

    #: config PreferredGroups for models whose config has no instance groups, the best first.
    preferred_groups = ()

    #: What it takes of requests that differ in shape: `allow_ragged_batch`, `batch_input`, `batch_output`, `padding`.
    #: The first is for engines that get ragged inputs in one dimension, and for those that get each request by itself.
    assembles = frozenset()

    #: Whether its models get each request by itself, and nothing that tells of the batch.
    gets_requests = False

    @property
    def gpu_problem(self):
        """Why it makes no instances on GPUs, where `kinds` has none."""
        return f"the {self.name} backend runs on the CPU only"

    # Set once, before the first call: the --backend-config settings of this backend (str -> str), and the
    # memory.pools.Pools of the server, None where there are none.
    settings = {}
    pools = None
    # Cores that its threads may count on, where nothing says how many these are to be; 0: all that it finds. Set with
    # the settings.
    cores = 0
    # Processes that models which hold the interpreter's lock are spread over; 1: the server's alone. Set with the
    # settings.
    processes = 1
    # The server's InferenceService. Set before the first model of it is loaded; None: there is no server.
    inference = None
    # A Watcher, None where nobody runs a loop. Set before the first model is loaded.
    watcher = None

    def prepare(self):
        """Makes what all its models share, threads among it, on a load thread that runs where any thread may. Before
        each `inspect` and each `load`, which may be bound to cores. ServerError."""

    def inspect(self, path, proto):
        """Inputs and outputs of the model file or folder at `path`, for auto-complete: a config ModelIO, or None
        when the backend cannot tell. It may hold what `load` can go on with (LoadContext.opened).

        `proto`: the config so far. Raises ServerError when the file is no model of this backend. Load thread.
        """
        return None

    def families(self, str name=""):
        """Metric families that its models have made, as core.families has them: (name, type, text, samples); or those
        of this name. Loop thread, at each scrape."""
        return ()

    def load(self, context):
        """LoadedModel of one version. Blocking; load thread. Raises ServerError with the reason."""
        raise Unsupported(f"backend '{self.name}' can not load models")

    def close(self):
        """The server ends: frees what all its models shared. Blocking; behind the last of them."""


class LoadContext:
    """What a backend gets to load one model version. Read-only."""

    def __init__(self, config, int64_t version, path, signature, SlabPool pool, backend_config, pools=None,
                 opened=None, has_strategy=False):
        self.config = config                  # config.ModelConfig, complete and valid
        self.version = version
        self.path = path                      # the model file or folder in the version's directory
        self.signature = signature            # infer.ModelSignature
        self.pool = pool                      # host slabs for gathered inputs and for outputs
        self.backend_config = backend_config  # --backend-config settings of this backend: str -> str
        self.pools = pools or Pools(pool)     # memory.pools.Pools: pinned and device memory, the GPUs
        # ModelIO.opened of what `inspect` found of this version, or None. Closed by its maker.
        self.opened = opened
        # Whether another library has a batching strategy for the model.
        self.has_strategy = has_strategy


class LoadedModel:
    """One loaded version: what its instances share (weights, sessions)."""

    # memory.slab.SlabPool that large request bodies are best received into, set by `load`: pinned memory for a model
    # on a GPU. None: the host's. optimization.input_pinned_memory switches it off.
    input_pool = None

    # Whether instances must be made and closed on the thread that runs them, set by `load` at the latest. False: they
    # are made and closed on load threads, and the thread of an instance starts with its first batch.
    thread_bound = True

    # Whether what they share was laid out for the number of instances that the config has: another number of them takes
    # another load.
    counts_instances = False

    # A BatchRule, of a model that has one: its dynamic batcher asks it.
    batch_rule = None

    # Seconds that an unload waits for executions and responses until it calls `give_up` of instances, set by `load`; 0:
    # for ever.
    unload_limit_s = 0.0

    # Whether what an instance allocates follows the memory policy of the thread that makes and runs it.
    follows_memory_policy = True

    def create_instance(self, name, group, device_id):
        """A ModelInstance. `group`: config InstanceGroup. May block. Called on the instance's thread; where it is not
        `thread_bound`, on a load thread, or on the instance's when it makes one anew."""
        raise Unsupported("this backend makes no instances")

    def close(self):
        """Frees the shared parts. Load thread, after every instance is closed."""


cdef class ModelInstance:
    """One execution context, run by one thread. See base.pxd for `execute`."""

    def __init__(self, str name):
        self.name = name
        self.depth = 1

    cdef void execute(self, ta_batch *batch) noexcept nogil:
        ta_batch_fail(batch, TA_CODE_INTERNAL, "the instance has no execute")

    cdef int submit(self, ta_batch *batch) noexcept nogil:
        self.execute(batch)
        return 1

    cdef bint takes_here(self, Batch batch, int others) noexcept:
        return False

    cdef void completed(self, ta_batch *batch) noexcept nogil:
        check_batch(batch)
        if self.post != NULL:  # core has the instance; else `execute_requests` waits in `drain`
            self.post(self.context, &batch.message)

    cdef void cancel(self, ta_batch *batch) noexcept nogil:
        pass

    cdef void drain(self) noexcept nogil:
        pass

    def is_ready(self):
        """Whether the model can answer requests, of an instance that `asks_ready`. May block; any thread, at any time
        before `close`, and a little later. ServerError: it could not be told, which counts as no."""
        return True

    def give_up(self, reason):
        """Nobody waits any more for what it has not ended, and nothing else is to come: ends it, if it can, so that its
        requests fail. `reason`: why, "its model ...". Does not block. Loop thread, at any time before `close`, once and
        again."""

    def begin_to_close(self):
        """`close` follows: begins what takes long of it, without waiting for it. The thread of `close`, which need not
        have called it."""

    def close(self):
        """Frees the engine's context. Called once, when no batch is out, on the instance's thread, or on a load thread
        when that never started."""


cdef class BatchRule:
    """See base.pxd. A model that has one closes it behind its last batch."""

    cdef int begin(self) noexcept:
        self.begun = True
        return 0

    cdef bint takes(self, InferRequest request) noexcept:
        return True

    cdef int end(self) noexcept:
        self.begun = False
        return 0

    def close(self):
        """Frees what it has. Load thread, behind its last batch."""


cdef int fail_batch(ta_batch *batch, error) except -1:
    cdef object problem = as_server_error(error)
    message = problem.message.encode("utf-8", "replace")
    ta_batch_fail(batch, problem.code, "%.1000s", <const char *>message)
    return 0


def as_server_error(error):
    """What clients are told of an exception: itself, if it is a ServerError, or its type and text."""
    if isinstance(error, ServerError):
        return error
    try:
        return InternalError(f"{type(error).__name__}: {error}")
    except Exception:  # a text of its own making may fail as well
        return InternalError(type(error).__name__)


def execute_requests(ModelInstance instance, ModelSignature signature, requests):
    """Runs one batch of `requests` in the calling thread: one InferResponse each, in order. For warm-up and tests.

    Raises InvalidArg for a request that does not fit the signature. The instance must have no batch out.
    """
    return execute_batches(instance, signature, [requests])[0]


# Of what is made for batches that core does not have.
cdef SlabPool _host = SlabPool(0)


def execute_batches(ModelInstance instance, ModelSignature signature, batches):
    """The same for several batches, each a list of requests, which an asynchronous instance runs at once as it can.
    """
    cdef Batch batch
    cdef InferRequest request
    closed = []
    for requests in batches:
        for request in requests:
            signature.validate(request)
        closed.append(closed_batch(signature, list(requests)))
    for batch in closed:
        with nogil:
            batch.c.compute_start_ns = ta_now_ns()
            if batch.c.assembly != NULL and not instance.by_request:
                assemble(&batch.c, _host.pool)
            if batch.c.failed or instance.submit(&batch.c):
                check_batch(&batch.c)
    with nogil:
        instance.drain()
    for batch in closed:
        if batch.c.assembly != NULL:
            split_outputs(&batch.c)
    return [(<Batch>batch).finish() for batch in closed]


cdef class RequestInstance(ModelInstance):
    """For engines that answer each request by itself: `execute_factories` is called with the GIL, on the instance
    thread."""

    def __init__(self, str name):
        ModelInstance.__init__(self, name)
        self.by_request = True

    def execute_factories(self, list factories):
        """Begins the requests of one batch, a ResponseFactory each, and returns when the instance may have the next.
        Factories may be kept and used from any thread until their final response. What it raises is the answer to every
        request that has none yet."""
        raise Unsupported("this backend has no execute_factories")

    cdef int submit(self, ta_batch *batch) noexcept nogil:
        batch.by_request = 1
        with gil:
            self._submit_python(batch)
        return 1

    cdef int _submit_python(self, ta_batch *c) noexcept:
        cdef list factories
        cdef ResponseFactory factory
        c.compute_input_end_ns = ta_now_ns()
        factories = self._factories(c)
        if factories is None:
            return 0
        try:
            self.execute_factories(factories[:])
        except BaseException as error:
            problem = as_server_error(error)
            for factory in factories:
                if not factory.finished:
                    factory.send([], None, problem)
                factory.release()
        c.compute_output_start_ns = c.compute_end_ns = ta_now_ns()
        return 0

    cdef list _factories(self, ta_batch *c):
        cdef list made = []
        cdef ResponseFactory factory = None
        cdef int i
        try:
            for i in range(c.n_requests):
                factory = self._factory(<Batch>c.owner, i)
                made.append(factory)
        except BaseException as error:
            # None of them says anything.
            if factory is not None:
                factory.post = NULL
            for factory in made:
                factory.post = NULL
            c.by_request = 0
            fail_batch(c, error)
            return None
        return made

    cdef ResponseFactory _factory(self, Batch batch, int number):
        cdef ResponseFactory factory = ResponseFactory.__new__(ResponseFactory)
        factory.request = <InferRequest>batch.requests[number]
        factory.signature = batch.signature
        factory.inputs = batch.request_inputs(number)
        factory.transfer = self.transfer
        factory.keeper = self.keeper
        factory.context = self.context
        factory.post = self.post
        factory.last_ns = batch.c.compute_input_end_ns
        return factory


cdef class PythonInstance(ModelInstance):
    """For engines driven from Python: `run` is called with the GIL, on the instance thread."""

    def __init__(self, str name, SlabPool pool):
        ModelInstance.__init__(self, name)
        self.pool = pool

    def run(self, list inputs):
        """Outputs (Tensor, ndarray, or None where not produced) in signature order, for whole-batch input
        Tensors in signature order (None where absent; their bytes are valid until `run` returns)."""
        raise Unsupported("this backend has no run")

    cdef void execute(self, ta_batch *batch) noexcept nogil:
        cdef int i
        for i in range(batch.n_inputs):
            if ta_gather(&batch.inputs[i], self.pool.pool) < 0:
                ta_batch_fail(batch, TA_CODE_INTERNAL, "no memory to gather the inputs of a batch")
                return
        with gil:
            self._execute_python(batch)

    cdef int _execute_python(self, ta_batch *c) noexcept:
        cdef Batch batch = <Batch>c.owner
        cdef Tensor tensor
        cdef int index
        c.compute_input_end_ns = ta_now_ns()
        try:
            outputs = self.run(batch.input_tensors())
            c.compute_output_start_ns = ta_now_ns()
            for index, output in enumerate(outputs):
                if output is None:
                    continue
                if isinstance(output, Tensor):
                    tensor = output
                else:
                    spec = batch.signature.outputs[index] if index < c.n_outputs else None
                    bf16 = spec is not None and spec.datatype == DT_BF16
                    tensor = from_numpy("" if spec is None else spec.name, output, DT_BF16 if bf16 else None)
                batch.set_output(index, tensor)
        except BaseException as error:
            fail_batch(c, error)
        c.compute_end_ns = ta_now_ns()
        return 0
