"""The model process's end of its lane to one front-end: what that says is checked, its requests run like any others."""

import logging
from functools import partial

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from triton_async.backends.python.isolated.wire cimport Cursor, Writer
from triton_async.core.servable cimport Servable
from triton_async.core.server cimport InferenceServer
from triton_async.infer.request cimport InferRequest, Origin
from triton_async.infer.response cimport InferResponse, ResponseSink
from triton_async.infer.signature cimport ModelSignature
from triton_async.infer.strings cimport has_many_strings
from triton_async.processes.lane cimport CALL, CANCEL, LEFT, RELEASED, REQUEST, TAKEN, TELL, Held, Lane
from triton_async.processes.requests cimport (
    ASKED_LENDS,
    Asked,
    Form,
    Forms,
    model_of,
    read_first,
    read_form,
    read_head,
    read_request,
)
from triton_async.processes.responses cimport FINAL, FLAGS_AT, REFUSED, RELEASES, write_error, write_response

from triton_async.backends.python.isolated.wire import WireError
from triton_async.errors import InternalError, ServerError
from triton_async.processes.calls import decoded
from triton_async.processes.defines import RESPONSE_WINDOW
from triton_async.processes.news import is_news

log = logging.getLogger("triton_async.processes")

cdef int64_t WINDOW = RESPONSE_WINDOW

# Made before it is needed.
cdef object NO_MEMORY = InternalError("no memory for a request or a response")


@cython.final
cdef class RemoteSink(ResponseSink):
    cdef int deliver(self, InferResponse response) except -1:
        return 0 if self.link is None else self.link.respond(self, response)

    cdef int released(self, object request) except -1:
        self.freed = True
        if self.link is None or not (self.final or self.gone or (<InferRequest>request).cancelled):
            return 0
        return self.link.over(self)

    cdef bint congested(self) except -1:
        return self.link is not None and self.untaken >= WINDOW

    cdef int on_relief(self, object resume) except -1:
        if self.waiting is None:
            self.waiting = []
        self.waiting.append(resume)
        return 0

    # Fewer are waiting, or nobody waits any more.
    def relieve(self, loop):
        waiting, self.waiting = self.waiting, None
        for resume in waiting or ():
            loop.call_soon(resume)


cdef class FrontEnd(Lane):
    """See Lane. `answering`: calls.Answering. `on_told(self, dict)`: what it tells of itself; `on_over(self, problem)`:
    it has ended (None), or said what none of ours says, and is to be ended.
    """

    def __init__(self, loop, sock, rings, mine, theirs, own_fd, other_fd, InferenceServer server, answering, on_told,
                 on_over):
        Lane.__init__(self, loop, sock, rings, mine, theirs, own_fd, other_fd, front_end=False)
        self.share(server.reactor.turn)
        self.server = server
        self.sinks = {}
        self.origins = {}
        self.models = {}
        self.forms = Forms.__new__(Forms)
        self.answering = answering
        self.on_told = on_told
        self.on_over = on_over

    @property
    def in_flight(self):
        """Its requests that are not over."""
        return len(self.sinks)

    def on_end(self, problem):
        self.on_over(self, problem)

    def close(self):
        """Ends it; its requests are cancelled, and its clients' sequences are over."""
        cdef RemoteSink sink
        cdef Origin origin
        if self.closed:
            return
        Lane.close(self)
        sinks, self.sinks = self.sinks, {}
        for sink in sinks.values():
            sink.link = None
            sink.gone = True
            if sink.request is not None:
                self.server.cancel_request(sink.request)
                sink.request = None
            sink.relieve(self.loop)
        origins, self.origins = self.origins, {}
        for origin in origins.values():
            origin.gone()

    # -- models that it may name -------------------------------------------------------------------

    def know(self, models):
        """Servables that it hears of now."""
        cdef Servable model
        for model in models:
            self.models[model.number] = model

    def forget(self, numbers):
        """It has taken note that these are gone, and names them no more."""
        for number in numbers:
            self.models.pop(number, None)
        if numbers:
            self.forms.clear()

    def known(self):
        """Numbers of what it may name."""
        return set(self.models)

    # -- messages ----------------------------------------------------------------------------------

    cdef int receive(self, int kind, Cursor cursor) except -1:
        cdef RemoteSink sink
        cdef uint64_t number
        if kind == REQUEST:
            return self._on_request(cursor)
        if kind == CANCEL:
            sink = self.sinks.get(cursor.u64())
            return 0 if sink is None else self._cancel(sink)
        if kind == TAKEN:
            sink = self.sinks.get(cursor.u64())
            count = cursor.u32()
            if sink is not None:
                sink.untaken -= count
                if sink.untaken < 0:
                    raise WireError("that it has passed on more than it got")
                if sink.waiting is not None and sink.untaken <= WINDOW // 2:
                    sink.relieve(self.loop)
            return 0
        if kind == LEFT:
            origin = self.origins.pop(cursor.u64(), None)
            if cursor.u8() and origin is not None:
                origin.leave()
            return 0
        if kind == CALL:
            number = cursor.u64()
            self.answering.call(cursor.at[:cursor.end - cursor.at], partial(self._answer, number))
            return 0
        if kind == TELL:
            self._on_tell(decoded(cursor.at[:cursor.end - cursor.at]))
            return 0
        raise WireError("a message of no known kind")

    def _answer(self, number, text):
        if not self.closed:
            self.answer(number, text)

    cdef int _cancel(self, RemoteSink sink) except -1:
        sink.gone = True
        if sink.request is not None:
            self.server.cancel_request(sink.request)
        # Its engine may go on for long, but nothing of that is for anybody.
        return self.over(sink) if sink.freed and sink.link is not None else 0

    def _on_tell(self, told):
        if type(told) is not dict or not all([is_news(name, value) for name, value in told.items()]):
            raise WireError("what is none of its news")
        if "pid" in told:
            self.pid = told["pid"]
        if "metrics" in told:
            self.told = told["metrics"]
        self.on_told(self, told)

    # -- requests ----------------------------------------------------------------------------------

    cdef int _on_request(self, Cursor cursor) except -1:
        cdef Asked asked
        read_head(cursor, &asked)
        if asked.number in self.sinks:
            raise WireError("two requests of one number")
        try:
            self._take_request(cursor, &asked)
        except ServerError as error:
            return self.refuse(asked.number, error)
        except MemoryError:
            self.sinks.pop(asked.number, None)
            return self.refuse(asked.number, NO_MEMORY)
        return 0

    cdef int _take_request(self, Cursor cursor, const Asked *asked) except -1:
        # First of all, so that it is given back whatever comes.
        cdef Held held = self.held(asked.number) if asked.how & ASKED_LENDS else None
        cdef Form form = self._form(cursor, asked.form_nbytes)
        cdef InferRequest request = read_request(cursor, self, asked, form, held, self.server.regions, self.server.pool)
        cdef RemoteSink sink
        if asked.origin:
            origin = self.origins.get(asked.origin)
            if origin is None:
                origin = self.origins[asked.origin] = Origin()
            request.origin = origin
        sink = RemoteSink.__new__(RemoteSink)
        sink.link = self
        sink.number = asked.number
        sink.position = -1
        self.sinks[asked.number] = sink
        if has_many_strings(request):
            work = self.loop.run_in_executor(None, form.signature.validated, request)
            work.add_done_callback(partial(self._validated, sink, request, form))
            return 0
        return self._submit(sink, request, form)

    cdef int receive_no_more(self, const char *first, Py_ssize_t nbytes) except -1:
        cdef Asked asked
        if first[0] != REQUEST:
            raise MemoryError
        read_first(first, nbytes, &asked)
        if asked.number in self.sinks:
            raise WireError("two requests of one number")
        if asked.how & ASKED_LENDS:
            self.held(asked.number)  # and no more
        return self.refuse(asked.number, NO_MEMORY)

    cdef Form _form(self, Cursor cursor, uint32_t nbytes):
        cdef uint64_t number = model_of(cursor, nbytes)
        cdef const char *text = cursor._take(nbytes)
        cdef Form form = self.forms.find(text, nbytes)
        cdef Servable model
        if form is not None:
            return form
        model = self.models.get(number)
        if model is None:
            raise WireError("a request for a model that it was not told of")
        return read_form(text, nbytes, model)

    def _validated(self, RemoteSink sink, InferRequest request, Form form, work):
        error = work.exception()
        if sink.link is None:
            return
        if sink.gone:
            self.over(sink)
        elif isinstance(error, ServerError):
            del self.sinks[sink.number]
            self.refuse(sink.number, error)
        else:
            if error is not None:
                log.error("the strings of a request could not be looked at", exc_info=error)
            self._submit(sink, request, form)

    cdef int _submit(self, RemoteSink sink, InferRequest request, Form form) except -1:
        try:
            self.server.submit_request(request, sink, form.model)
        except ServerError as error:
            del self.sinks[sink.number]
            return self.refuse(sink.number, error)
        except Exception:
            log.exception("a request for model '%s' failed", request.model_name)
            del self.sinks[sink.number]
            return self.refuse(sink.number, InternalError("internal error, see the log of the server"))
        sink.request = request
        try:
            return 0 if request.fits is not None else self.forms.learn(form, request)
        except MemoryError:  # then its form is read again the next time
            return 0

    cdef int refuse(self, uint64_t number, object error) except -1:
        self._send_error(number, FINAL | RELEASES | REFUSED, -1, error)
        return 0

    # Its position. Who asked waits for it: where there is no room for a long text, another error says so.
    cdef int64_t _send_error(self, uint64_t number, int flags, int64_t version, object error) except? -9:
        cdef Writer message
        for said in (error, NO_MEMORY):
            message = self.fresh()
            try:
                write_error(message, number, <uint8_t>flags, None, version, said)
                return self.send(message)
            except ServerError:
                continue
            except MemoryError:
                break
        self.give_up()
        return -1

    # What cannot be sent is answered with an error: its client must not wait for ever.
    cdef int respond(self, RemoteSink sink, InferResponse response) except -1:
        cdef Writer message = self.fresh()
        cdef ModelSignature signature = (<Servable>(<InferRequest>response.request).model).signature
        cdef list lends = []
        cdef int64_t position
        cdef uint64_t lent = 0
        try:
            write_response(message, self, response, sink.number, signature, lends)
            if lends:
                lent = self.lend(lends)
                memcpy(message.data + FLAGS_AT + 1, &lent, 8)
            position = self.send(message)
        except Exception as error:
            self.lent.pop(lent, None)
            position = self._respond_error(sink, response, error)
        if not response.final:
            sink.untaken += 1
            return 0
        sink.position = position
        sink.final = True
        return self.over(sink) if sink.freed else 0

    cdef int64_t _respond_error(self, RemoteSink sink, InferResponse response, object error) except? -9:
        if isinstance(error, MemoryError):
            error = NO_MEMORY
        elif not isinstance(error, ServerError):
            log.error("a response could not be handed to a front-end process", exc_info=error)
            error = InternalError("internal error, see the log of the server")
        return self._send_error(sink.number, FINAL if response.final else 0, response.model_version, error)

    cdef int over(self, RemoteSink sink) except -1:
        cdef Writer message
        self.sinks.pop(sink.number, None)
        sink.link = None
        sink.request = None
        if not self.patch(sink.position, FLAGS_AT, RELEASES):
            message = self.fresh()
            try:
                message.u8(RELEASED)
                message.u64(sink.number)
                self.send(message)
            except MemoryError:
                self.give_up()
        return 0
