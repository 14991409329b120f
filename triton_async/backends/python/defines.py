"""Limits of Python models in worker processes, with their units and reasons."""

from triton_async.defines import INSTANCE_RUN_AHEAD_NS, MAX_PARAMETERS_PER_REQUEST, MAX_TENSORS_PER_REQUEST

# Bytes of one message between the server and a worker: a batch of many small requests; longer ones go through shared
# memory, or are several. A tensor of up to so many bytes lies in the message itself, which is cheaper than a lease.
WORKER_MESSAGE_NBYTES = 1 << 16
WORKER_INLINE_NBYTES = 1 << 12

# Bytes of a worker's message, and of tensors that it is about, up to which the loop deals with it itself: what is
# longer is read, and copied, on the thread for workers.
WORKER_LOOP_NBYTES = 1 << 14

# Bytes of an event that a worker sends through shared memory, of which the server makes a copy: the files of a model
# that it has the server load.
WORKER_SPILL_NBYTES = 1 << 28

# Tensors of one request or response, and parameters of one, as for clients.
WORKER_MAX_TENSORS = MAX_TENSORS_PER_REQUEST
WORKER_MAX_PARAMETERS = MAX_PARAMETERS_PER_REQUEST

# Bytes of address space for the tensors of one worker, each way. Only what is written to takes memory.
WORKER_MEMORY_NBYTES = 1 << 34

# Bytes of a worker's shared memory that it hears to be free again only with the next message for it.
WORKER_FREED_NBYTES = 1 << 23

# Bytes that the server has to tell a worker and that this does not read. Batches wait elsewhere, so what there is are
# answers to its own requests, whose tensors are not in them: it is killed then.
WORKER_OUTBOX_NBYTES = 1 << 24

# Batches that a worker gets ahead of the one it executes, that one included, where executions take less than so many
# nanoseconds on average: waking it and its server for each would cost more than they do.
WORKER_AHEAD = 8
WORKER_AHEAD_NS = INSTANCE_RUN_AHEAD_NS

# Inference requests of one worker that have no final response yet, and responses that are not final and that it may
# send for one request beyond those which the server has passed on.
WORKER_MAX_CALLS = 4096
WORKER_RESPONSE_CREDITS = 64

# Seconds until the process that workers are forked from must have imported NumPy, on a busy machine with a cold disk;
# until a worker must have been forked, or a model process that is to begin one must have said something of any; and how
# long the first one is kept after its last worker, for the next load.
WORKER_ZYGOTE_TIMEOUT_S = 120.0
WORKER_FORK_TIMEOUT_S = 30.0
WORKER_ZYGOTE_LINGER_S = 10.0

# Seconds after which a worker is killed that has a batch and does not begin with it, or is stopped. It is looked at
# as often, so it may be twice as long.
WORKER_SILENCE_S = 10.0

# Seconds for `finalize` before a worker is killed (default of --backend-config=python,stub-timeout-seconds), and for a
# killed one to be gone.
WORKER_CLOSE_TIMEOUT_S = 30.0
WORKER_END_TIMEOUT_S = 1.0

# Seconds until a worker that ended is started again: at once when it had run for WORKER_STEADY_S, else with a pause
# that doubles up to WORKER_RESTART_MAX_S, or WORKER_RESTART_SERVED_S when it had executed a batch. A batch waits for a
# worker that is on its way, so long at most, and where the pause before it is no longer than WORKER_SHORT_PAUSE_S.
WORKER_STEADY_S = 1.0
WORKER_RESTART_S = 0.1
WORKER_RESTART_MAX_S = 60.0
WORKER_RESTART_SERVED_S = 0.4
WORKER_RESTART_WAIT_S = 5.0
WORKER_SHORT_PAUSE_S = 1.0

# Metrics and families that one worker may hold, and calls of it at once that load, unload or ask for models.
WORKER_MAX_HANDLES = 10_000
WORKER_MAX_QUESTIONS = 64

# Entries of an environment's archive, bytes that it may hold, and bytes of one extended header of it: large conda
# environments have some hundred thousand files.
ARCHIVE_MAX_ENTRIES = 2_000_000
ARCHIVE_MAX_NBYTES = 1 << 37
ARCHIVE_HEADER_NBYTES = 1 << 16

# Bytes of a requirements.txt, and seconds for the environment to be made of it.
REQUIREMENTS_MAX_NBYTES = 1 << 20
ENVIRONMENT_SETUP_TIMEOUT_S = 1800.0

# Seconds for the scripts of a conda environment that set variables.
ACTIVATION_TIMEOUT_S = 30.0

# Seconds that an unload waits for what a worker executes: by then it hangs, or has no client that waits so long.
UNLOAD_TIMEOUT_S = 600.0

# Seconds that EXECUTION_TIMEOUT_SECONDS and UNLOAD_TIMEOUT_SECONDS may be at most, and bytes that MEMORY_LIMIT_BYTES
# must be at least: an interpreter with NumPy and its threads' stacks needs about as much.
EXECUTION_LIMIT_MAX_S = 1_000_000
MEMORY_LIMIT_LEAST_NBYTES = 1 << 27
