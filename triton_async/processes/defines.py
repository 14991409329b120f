"""Limits between front-end processes and the model process, with their units and reasons."""

from triton_async.defines import MAX_TENSORS_PER_REQUEST

# Bytes of the ring of messages, each way: some thousands of requests. What has no room waits in its sender.
RING_NBYTES = 1 << 21

# Bytes of one message. Longer ones lie in shared memory, with a message that says where.
MESSAGE_NBYTES = 1 << 16

# A tensor of up to so many bytes lies in its message, and so many bytes of a message's tensors do at most: a copy is
# cheaper than lending memory and having it back.
INLINE_NBYTES = 1 << 12
INLINE_ALL_NBYTES = 1 << 14

# Forms of requests of one front-end, everything of them but their bytes and numbers, that the model process keeps, and
# bytes of such a form.
MOST_FORMS = 256
FORM_NBYTES = 1 << 10

# Bytes that are read from a ring at once, into private memory, before they are looked at. The sockets have their turn
# before more of them are.
INBOX_NBYTES = 1 << 18

# Bytes of address space for the bodies of one front-end, and for the responses of the model process. Only what is
# written to takes memory.
FRONTEND_MEMORY_NBYTES = 1 << 34
RESPONSE_MEMORY_NBYTES = 1 << 36

# Bytes of an answer or a call that lies in shared memory: files of a model that is to be loaded.
SPILL_NBYTES = 1 << 32

# Tensors of one request or response, as for clients.
MAX_TENSORS = MAX_TENSORS_PER_REQUEST

# Responses to one request that are not final and that its front-end has not passed on yet.
RESPONSE_WINDOW = 16

# Seconds for a front-end to take over what it was told (models that came, or went) before it is ended, and to end
# when it was asked to.
SETTLE_S = 10.0
END_S = 2.0

# Seconds until a front-end is started again that ended within STEADY_S of its start: a pause that doubles up to
# RESTART_MAX_S, or RESTART_SERVED_S when it had listened. Others are replaced at once.
STEADY_S = 5.0
RESTART_S = 0.1
RESTART_MAX_S = 5.0
RESTART_SERVED_S = 0.2

# Seconds for all front-ends to listen when the server starts.
START_S = 60.0

# Seconds between what front-ends tell of themselves, for the metrics.
TELL_S = 1.0
