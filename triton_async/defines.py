"""Every limit of the server, each with its unit and the reason for its value."""

# -- tensors ---------------------------------------------------------------------------------------

# Dimensions of one tensor. NumPy stops at 64 and no engine we drive goes past 8; a fixed bound keeps a
# tensor's shape inside the object.
MAX_RANK = 16

# Largest byte size of one tensor and the largest element count: what a signed 64-bit offset can address.
MAX_TENSOR_NBYTES = 2**63 - 1

# Inputs, and requested outputs, of one request. Models have a handful; the bound keeps a request that
# names a million of them from costing more than its bytes (CVE-2026-24146).
MAX_TENSORS_PER_REQUEST = 4096

# Parameters of one request, for the same reason.
MAX_PARAMETERS_PER_REQUEST = 4096

# -- HTTP ------------------------------------------------------------------------------------------

# Default of --http-max-input-size in bytes (Triton's: 2^26).
HTTP_MAX_INPUT_NBYTES = 1 << 26

# Non-empty chunks of one chunked body (Triton's bound; CVE-2025-23310).
HTTP_MAX_CHUNKS = 65_536

# Part of the memory that the process may use which the bytes of requests in flight may take, as 1 by so much, and what
# answers that wait for their clients, and bodies that are not complete, may take of it over each protocol. What a
# request costs beside its inputs.
IN_FLIGHT_SHARE = 2
UNSENT_SHARE = 8
REQUEST_NBYTES = 2048

# Seconds after which a client that was refused for want of room is told to try again.
RETRY_AFTER_S = 1

# Connections of the metrics port: scrapers have one each, and the others' descriptors are not theirs.
METRICS_MAX_CONNECTIONS = 128

# Bytes of one whole body, binary tensors included: Triton has no bound here; 2 GiB is gRPC's own limit, so
# both protocols take the same largest tensor.
HTTP_MAX_BODY_NBYTES = (1 << 31) - 1

# Bytes of chunk extensions in one body; nobody reads them.
HTTP_MAX_EXTENSION_NBYTES = 16_384

# Depth of nested JSON arrays and objects (Triton's limit; CVE-2025-23325).
JSON_MAX_DEPTH = 100

# Bytes of the JSON of an inference request without the data of its inputs, and without what nobody reads of it: names,
# shapes and parameters of as many tensors as it may have. Objects are made of these, at some 10 ns a byte.
JSON_MAX_LEFT_NBYTES = 1 << 20

# Bytes of JSON, or of strings, from which on they are read without the GIL: given away, it comes back only after the
# switch interval where another thread runs Python.
NOGIL_NBYTES = 1 << 14

# Bytes of such JSON, and elements of outputs that have to be written as JSON or looked through for classes, from which
# on a thread does it: about half a millisecond of the loop's time.
JSON_OFFLOAD_NBYTES = 1 << 16
JSON_OFFLOAD_ELEMENTS = 1 << 14

# Values in the JSON of a control call, and fields in the message of one: none needs more than a few dozen, and each
# takes some 100 ns.
JSON_MAX_CONTROL_VALUES = 4096

# Strings of a request from which on a thread looks whether their lengths fit: half a millisecond of it.
STRINGS_OFFLOAD_ELEMENTS = 1 << 17

# Bytes of the body, or message, of a control call. Loads may bring files, and have the limits of inference.
CONTROL_MAX_NBYTES = 1 << 20

# Bytes of the request line and of one header field, of a whole head (and of the trailers of a body), and fields of a
# head: what aiohttp takes, enough for long bearer tokens.
HTTP_MAX_LINE_NBYTES = 8190
HTTP_MAX_HEADERS_NBYTES = 32_768
HTTP_MAX_FIELDS = 128

# Bodies of answers from here on are compressed for clients that accept it, as most do by default whether it helps them
# or not. What fits into the first ten segments of a connection (RFC 6928) is there after one round trip either way;
# more costs 0.5 ms for 16 KiB of JSON, on a thread, where all else of a request costs 20 us.
HTTP_COMPRESS_MIN_NBYTES = 1 << 14

# Bits per byte of a sample of such a body up to which it is compressed: by these it would shrink by a quarter. JSON has
# 3 to 4; floating-point tensors, images and what is compressed already have 7 to 8, and would cost 60 us/KiB for
# nothing.
HTTP_COMPRESS_MAX_ENTROPY = 6.0

# zlib's level for them: JSON comes out at 0.46 of its size for 33 ns a byte; level 6 makes 0.40 of it for 190.
HTTP_COMPRESS_LEVEL = 1

# Seconds a connection may take to send a complete head, and to send the next piece of a body.
HTTP_HEAD_TIMEOUT_S = 60.0
HTTP_BODY_TIMEOUT_S = 60.0

# Bytes per second of a body, averaged over HTTP_BODY_TIMEOUT_S: far below any network that still works, far above a
# client that holds memory with a byte now and then.
HTTP_BODY_MIN_NBYTES_PER_S = 1 << 10

# Seconds and bytes per second of a gRPC message, as of an HTTP body. A call with a deadline may take that long.
GRPC_MESSAGE_TIMEOUT_S = 60.0
GRPC_MESSAGE_MIN_NBYTES_PER_S = 1 << 10

# Bytes received of bodies that are not complete, over all connections; eight of the largest. A body that goes beyond
# it is refused (503). Announced bytes do not count: their memory is the system's until they come. Bodies that come in
# one piece do not either, so that small requests are answered whatever others send.
HTTP_MAX_RECEIVING_NBYTES = 1 << 34

# Seconds a connection may stay idle between requests: longer than any load balancer keeps its own side open, so
# that it is never us who close under a request (Triton never closes).
HTTP_KEEPALIVE_TIMEOUT_S = 3630.0

# Seconds without any progress after which a response that the client does not read is given up, and that a finished one
# waits for another process to tell the load that is to go with it.
HTTP_WRITE_TIMEOUT_S = 60.0
HTTP_LOAD_REPORT_S = 0.05

# Bytes of answers over all connections that wait for their clients to read. Beyond it the connection with the most of
# them is closed: who reads as fast as answers come never holds many.
HTTP_MAX_UNSENT_NBYTES = 1 << 33

# Events of one stream (generate_stream) that wait for its client, and bytes of them, from which on who makes further
# ones is asked to wait: more than a socket takes at once.
HTTP_CONGESTED_EVENTS = 1024
HTTP_CONGESTED_NBYTES = 1 << 20

# The same for a model that does not wait: it costs its client the stream here.
HTTP_MAX_EVENTS = 1 << 16
HTTP_MAX_EVENT_NBYTES = 1 << 28

# Bytes received at once into memory shared by all connections; what a body still lacks then goes straight to where
# its tensors will lie.
HTTP_RECEIVE_NBYTES = 1 << 16

# Bytes of a long answer that are given to the socket, and back to the system, at once: the latter takes 0.1 ms a MiB.
HTTP_PIECE_NBYTES = 1 << 20

# Bodies of answers up to so many bytes leave in one piece: a copy of that size costs less than another buffer to write.
HTTP_JOIN_NBYTES = 1 << 16

# Bytes received and not yet acted upon, of a connection that has to wait; reading stops at the bound.
HTTP_HELD_NBYTES = 1 << 16

# Requests answered or waiting on one connection (pipelining); reading stops at the bound.
HTTP_MAX_PIPELINED = 128

# Requests of one connection that are begun in one turn of the loop, whatever becomes of them: half a millisecond of it,
# where they are refused. What was sent behind them waits for the next turn, behind the other connections.
HTTP_REQUESTS_PER_TURN = 32

# Connections in memory that wait for the next request of an ASGI server: as many as it mostly has at once.
ASGI_IDLE_CONNECTIONS = 64

# Bytes of an answer that may wait for such a server before who writes it is held back, as in a socket.
ASGI_UNSENT_NBYTES = 1 << 20

# Characters of an error's text over HTTP, and of a word in it: names that clients have sent come back in part.
ERROR_MAX_LENGTH = 65536
ERROR_NAME_LENGTH = 200

# Largest number of classes that the classification extension looks at, and of strings that it gives (Triton's bound).
CLASSIFICATION_MAX = 1_000_000

# -- gRPC ------------------------------------------------------------------------------------------

# Bytes of one message, both ways (protobuf's and gRPC's own limit).
GRPC_MAX_MESSAGE_NBYTES = (1 << 31) - 1

# Requests of one stream that wait for a model, and answers that wait for the client; reading from the stream stops at
# the bound. From as many answers on, or so many bytes of them, who makes further ones for a request of the stream is
# asked to wait: as much as a client that reads takes at once.
GRPC_MAX_STREAM_REQUESTS = 256
GRPC_CONGESTED_NBYTES = 1 << 24

# Answers of one stream that wait for the client although more are to follow for the same request: a model that does
# not wait costs its client the call here, or at GRPC_MAX_HELD_NBYTES.
GRPC_MAX_STREAM_ANSWERS = 1 << 16

# Responses to one request that an engine has sent and the loop has not seen yet: an engine that asks waits here, so
# that one that never lets go of the GIL leaves room for the loop. Enough for a turn's worth of small ones.
RESPONSES_AHEAD = 256

# Bytes that a client may send ahead of our reading, per call and per connection. Large tensors arrive without a
# round trip per window; a call reads as it goes, so this is also what an idle reader can be made to hold.
GRPC_STREAM_WINDOW_NBYTES = 16 << 20
GRPC_CONNECTION_WINDOW_NBYTES = 64 << 20

# Calls open at once on one connection.
GRPC_MAX_CONCURRENT_STREAMS = 1024

# Nanoseconds of one turn of the loop that a connection has for what it sent at once, and calls that it may open in it.
GRPC_TURN_NS = 500_000
GRPC_CALLS_PER_TURN = 64

# Bytes of one HTTP/2 frame we accept. Larger than the default 16 KiB because the cost of receiving a tensor is per
# frame: only from the second read of a frame on do its bytes go straight into their message. Header blocks have a bound
# of their own, GRPC_MAX_HEADER_BLOCK_NBYTES.
GRPC_MAX_FRAME_NBYTES = 1 << 20

# Bytes of the request headers of one call, decoded (C-core's hard limit).
GRPC_MAX_HEADER_LIST_NBYTES = 1 << 14

# Bytes of one header block, decoded, from which on the connection is ended: a few bytes may stand for a large field of
# the compression table, again and again (CVE-2016-6581). Calls in between are refused one by one, as clients expect it.
GRPC_MAX_DECODED_HEADERS_NBYTES = 8 * GRPC_MAX_HEADER_LIST_NBYTES

# Bytes of a percent-encoded error message: clients refuse trailers of more than 8 KiB.
GRPC_MAX_STATUS_MESSAGE_NBYTES = 1 << 12

# Continuation frames of one header block: GRPC_MAX_HEADER_LIST_NBYTES fits in one frame of the default 16 KiB, so only
# an attacker needs many (CVE-2024-27316 and its siblings).
GRPC_MAX_CONTINUATIONS = 8

# Bytes of one header block as sent. Longer lists than GRPC_MAX_HEADER_LIST_NBYTES are refused call by call; what is
# longer than this ends the connection, because decoding it costs more than refusing. So does any other frame of more
# bytes that is not DATA.
GRPC_MAX_HEADER_BLOCK_NBYTES = 1 << 17

# Stream resets, the client's and those that it made us send, at once and per second before the connection is
# ended (CVE-2023-44487, CVE-2025-8671). nghttp2's own numbers; 1.52 counts only one of the kinds, if any. Not counted
# are resets that spare the client nothing: of calls that are being answered or executed, or whose deadline has come.
GRPC_RESET_BURST = 1000
GRPC_RESETS_PER_S = 33

# Seconds before its deadline (but not in the first half of its time) from which on a call may be reset without being
# counted: how far the clocks of a busy client and ours may be apart about the same deadline.
GRPC_DEADLINE_SLACK_S = 0.1

# Seconds, and part of the time that a client gives a call as 1 by so much, of which the smaller one is kept for the way
# of its answer: in an overload whatever is run ends just in time, and would come just too late.
GRPC_WAY_BACK_S = 0.02
GRPC_WAY_BACK_SHARE = 10

# PING, SETTINGS, PRIORITY, unknown and empty frames, the same way (CVE-2019-9511 to -9518). C-core's bandwidth
# probes send up to ten PINGs a second.
GRPC_CONTROL_BURST = 1000
GRPC_CONTROLS_PER_S = 100

# Sent DATA frames shorter than this although more is waiting count as control frames: a client that opens its window
# byte by byte pays for it (CVE-2019-9511).
GRPC_DRIBBLE_NBYTES = 64

# Bytes of one block of memory for what a stream was sent and does not read yet: a client's frames may be of one byte,
# so they are put together; the blocks are given back one by one.
GRPC_BACKLOG_BLOCK_NBYTES = 1 << 14

# First allocation for a message that comes in several frames: a length prefix alone costs at most this much. Then, of
# pinned and shared memory, how far each later one goes beyond what was received; ordinary memory is leased whole.
GRPC_MESSAGE_START_NBYTES = 1 << 20
GRPC_MESSAGE_GROWTH = 4

# Bytes of request messages of one connection that have not come to their end: two of the largest. Calls beyond it are
# refused.
GRPC_MAX_RECEIVING_NBYTES = 1 << 32

# Bytes of answers of one connection that wait for the client's windows or socket. Beyond it new calls of the
# connection are refused; a stream on which as many wait is not read.
GRPC_MAX_HELD_NBYTES = 1 << 30

# The same two over all connections. Beyond the first the call is refused whose message has grown; beyond the second the
# connection is closed that holds the most and reads the least: who reads as fast as answers come never holds many.
GRPC_MAX_TOTAL_RECEIVING_NBYTES = 1 << 34
GRPC_MAX_TOTAL_HELD_NBYTES = 1 << 33

# Seconds without a byte sent while answers wait for the client's windows or socket; the connection is closed then
# (CVE-2019-9517).
GRPC_STALL_TIMEOUT_S = 30.0

# Seconds for a new connection to send the preface and its SETTINGS, and for a header block to be completed.
GRPC_HANDSHAKE_TIMEOUT_S = 20.0
GRPC_HEADERS_TIMEOUT_S = 10.0

# Bytes read from a socket at once, into one buffer for all connections of the loop: hundreds of small requests. What
# such a read brings of a large message is copied, the rest is not.
GRPC_RECEIVE_NBYTES = 1 << 16

# Bytes taken from a connection's answers for one write; more waits until the kernel has taken these.
GRPC_WRITE_NBYTES = 1 << 20

# Compressed bytes are given to zlib, and taken from it, so many at a time: it lets go of the interpreter for each step.
INFLATE_PIECE_NBYTES = 1 << 18

# Messages from here on are compressed and decompressed off the loop.
GRPC_COMPRESS_INLINE_NBYTES = 1 << 16

# Seconds of the longest deadline: timers beyond it are as good as none, and event loops need not represent them.
GRPC_MAX_TIMEOUT_S = 366 * 24 * 3600.0

# Seconds a client gets to answer the PING behind GOAWAY while the server stops; a live one answers in a round trip.
GRPC_GOAWAY_ROUND_TRIP_S = 1.0

# Connections that wait in the kernel to be accepted (C-core takes the system's maximum, 4096 on Linux).
GRPC_BACKLOG = 4096

# Seconds between two looks at the readiness that models say of themselves, for clients that watch the server's health.
GRPC_WATCH_S = 5.0

# Bytes of output tensors up to which a copy into the head of the message is cheaper than parts of their own.
GRPC_INLINE_OUTPUT_NBYTES = 1 << 14

# -- TLS -------------------------------------------------------------------------------------------

# Seconds a client may take for the handshake: some round trips; what holds a socket without showing anything.
TLS_HANDSHAKE_TIMEOUT_S = 20.0

# Encrypted bytes received at once into memory shared by all connections of a listener.
TLS_RECEIVE_NBYTES = 1 << 18

# Encrypted bytes made before the socket is asked whether it takes them: large answers stay what they are, neither
# encrypted nor copied, until the client reads.
TLS_WRITE_NBYTES = 1 << 17

# Bytes of one record (RFC 8446, 5.1).
TLS_RECORD_NBYTES = 1 << 14

# Bytes of answers to key updates for a client that does not read them; the connection is closed then.
TLS_MAX_CONTROL_NBYTES = 1 << 14

# -- sockets ---------------------------------------------------------------------------------------

# Bytes of the path of a Unix-domain socket that the kernel takes, without the final zero (unix(7)).
UNIX_PATH_MAX_NBYTES = 107

# -- requests of models to models -------------------------------------------------------------------

# How deep they may be nested. Pipelines have a handful of levels; a model that asks itself without end is stopped here.
INNER_MAX_DEPTH = 64

# How many may be open at once: as many as a model may start without waiting.
INNER_MAX_OPEN = 1 << 16

# Responses that a model has not taken yet of those it asked for: from the first number on their sender is asked to wait
# for it, unless the model waits for something else meanwhile. The second costs it the request.
INNER_UNREAD = 256
INNER_MAX_UNREAD = 1 << 16

# -- statistics ------------------------------------------------------------------------------------

# Responses to one request that have statistics of their own (response_stats). Each of them is 300 bytes of every answer
# to a statistics call, whatever the number of requests; the first ones show what matters.
RESPONSE_STATISTICS_MAX = 1024

# -- scheduling ------------------------------------------------------------------------------------

# Batches handed to an instance ahead of the one it runs. One keeps a CPU instance busy while the loop turns
# around; more only takes away from batching and from the order of priorities.
INSTANCE_RUN_AHEAD = 1

# Nanoseconds of work up to which more are handed ahead. Where an execution takes microseconds, waking the instance
# and the loop for each costs more than the execution does (bench/results/run-ahead.md).
INSTANCE_RUN_AHEAD_NS = 250_000

# Batches ahead whatever they take: with the one that runs and the order to stop they fit TA_MAILBOX_SLOTS.
INSTANCE_RUN_AHEAD_MAX = 30

# A batch runs on the loop thread itself, after the sockets that were readable were read, when executions take less than
# this on average: waking an instance and being woken by it costs more (bench/results/inline.md).
INLINE_MEAN_NS = 25_000

# Executions of no more than INLINE_STEADY_NS in a row, of one exact shape, until a model is trusted with it. It never
# is again after one on the loop thread that took longer than INLINE_STALL_NS, for everybody waited. Whether it was the
# model, and not the kernel that gave the processor to others, is looked at for INLINE_WATCHED executions behind the
# start and behind each stall that nobody watched (0.3 us each); one of INLINE_SURELY_NS was the model.
INLINE_AFTER = 64
INLINE_STEADY_NS = 250_000
INLINE_STALL_NS = 1_000_000
INLINE_SURELY_NS = 20_000_000
INLINE_WATCHED = 1 << 16

# Input bytes of a batch up to which it may run there: larger ones tell nothing about their time by the smaller ones.
INLINE_NBYTES = 1 << 16

# Seconds before the end of --exit-timeout-secs, or half of it, from when on engines are asked to give up what they run.
EXIT_GIVE_UP_S = 1.0

# Seconds until a model whose turn failed, for want of memory say, gets another one.
RETRY_TURN_S = 0.01

# An execution counts as stuck when it runs for STUCK_FACTOR times as long as the longest before it, and for
# STUCK_AFTER_NS: pauses of a machine are no faults of a model. The first one of a model, which may compile, has
# STUCK_FIRST_NS. Seconds between two looks: they cost a few us for each model that runs something.
STUCK_FACTOR = 10
STUCK_AFTER_NS = 10_000_000_000
STUCK_FIRST_NS = 120_000_000_000
STUCK_LOOK_S = 1.0

# Bytes of one input of a `model_warmup` sample, which are held while the model loads.
MAX_WARMUP_NBYTES = 1 << 32

# Instances of one model; each is an OS thread with its own engine state.
MAX_INSTANCES_PER_MODEL = 1024

# Steps of one ensemble. Responses of decoupled steps are followed from step to step by recursion.
MAX_ENSEMBLE_STEPS = 1024

# Ensembles within ensembles; what comes of a change goes up through them by recursion.
MAX_ENSEMBLE_NESTING = 64

# Responses of the decoupled steps of one request to an ensemble that later steps still work on: from the first number
# on a step that asks is held back, and beyond the second the request fails.
ENSEMBLE_AHEAD = 256
ENSEMBLE_MAX_AHEAD = 1 << 16

# -- memory ----------------------------------------------------------------------------------------

# Freed host slabs kept for reuse, in bytes, over all size classes. Beyond it memory goes back at once.
SLAB_CACHE_NBYTES = 1 << 28

# A server that holds no request and uses no more than this share of a core for so many seconds is idle, and gives back
# what is free: seldom enough that no request of a steady load finds its memory gone.
IDLE_S = 2.0
IDLE_CPU_SHARE = 0.02

# Alignment of every slab in bytes: a cache line, and the widest vector loads of CPU engines.
SLAB_ALIGNMENT = 64

# Pinned host memory for the tensors of GPU models, and device memory for each GPU, in bytes: Triton's defaults of
# --pinned-memory-pool-byte-size and --cuda-memory-pool-byte-size. Taken at once, when the first GPU model loads.
PINNED_POOL_NBYTES = 1 << 28
DEVICE_POOL_NBYTES = 1 << 26

# Compute capability of GPUs below which they are not used: Triton's default of --min-supported-compute-capability.
MIN_COMPUTE_CAPABILITY = 6.0

# Request bodies from this size on are received into the pool that the model likes best (pinned memory for a GPU model);
# copying a smaller one costs less than pinned memory is worth.
INPUT_POOL_NBYTES = 1 << 16

# -- GPUs ------------------------------------------------------------------------------------------

# Slots of an instance on a GPU: one computes while the other's outputs leave and its next inputs arrive. More cost
# device memory and hold batches back from growing.
DEVICE_SLOTS = 2

# Bytes of a host segment up to which it is joined with its neighbours before it is copied: about what a core moves in
# the time that a copy call of its own takes.
DEVICE_STAGE_NBYTES = 1 << 14

# Bytes to which device buffers are aligned (TensorRT's demand).
DEVICE_ALIGNMENT = 256

# Nanoseconds until a broken instance that could not be made anew is tried again, doubled each time up to the second:
# what ails a GPU for long is not cured by haste, and each attempt may read a model.
INSTANCE_RETRY_NS = 1_000_000_000
INSTANCE_RETRY_MAX_NS = 60_000_000_000
# Bytes of a cudaIpcMemHandle_t.
CUDA_IPC_HANDLE_NBYTES = 64

# Largest level of verbose logging that a request may set: an int32 of the protocol.
LOG_VERBOSE_MAX = 2**31 - 1

# Shared memory regions of clients, and bytes of a region's name. perf_analyzer registers one per tensor and process;
# the bound keeps a client that never unregisters from filling the address space, or a status answer.
MAX_REGIONS = 65_536
MAX_REGION_NAME_NBYTES = 4096

# -- repository ------------------------------------------------------------------------------------

# Bytes of one config.pbtxt or labels file; larger ones are a mistake, not a model.
CONFIG_MAX_NBYTES = 16 << 20
LABELS_MAX_NBYTES = 64 << 20

# Bytes of one TensorRT plan or ONNX model file that is read whole: the largest GPU memory there is today, twice over.
PLAN_MAX_NBYTES = 1 << 39

# Bytes of built TensorRT plans kept on disk, the least recently used dropped first: dozens of vision models, or a few
# large ones (default of --backend-config=tensorrt,plan-cache-byte-size).
PLAN_CACHE_NBYTES = 16 << 30

# Parallel loads at start-up and through the API (default of --model-load-thread-count).
MODEL_LOAD_THREADS = 4

# Threads that free models, and threads that look at the directories of one repository, for requests that wait for
# nothing else. Neither needs the processor for long; a second one goes on where the first one's engine or file takes
# long. Each repository has its own, so that one whose file system hangs holds up no other.
UNLOAD_THREADS = 2
FILE_THREADS = 2
# Where all of them seem to hang: seconds that a job waits before it gets a thread beside those, and threads at most.
# What does not hang takes less, unless the machine is busy, and then some threads more do no harm.
POOL_PATIENCE_S = 2.0
POOL_MOST_THREADS = 32

# Threads of a pool that wait for others at once, each with another one in its place: loads that asked for loads, and
# those whose repository agent does not answer. As deep as loads are nested, and more.
POOL_WAITS = 64

# Seconds in which a repository tells what it holds before poll mode follows the others without it, and before whoever
# asks hears that it does not answer.
REPOSITORY_ANSWER_S = 15.0

# Seconds for a model that SageMaker takes away to be freed: it waits for 360 itself.
ARCHIVE_UNLOAD_S = 350.0

# Models whose statistics are told in one turn of the loop: a quarter of a millisecond.
STATISTICS_PER_TURN = 25

# Nanoseconds of one turn of the loop in which metrics are written, and bytes of a page that are sent at a time.
METRICS_TURN_NS = 300_000
METRICS_PART_NBYTES = 1 << 16
# Upper bounds of one histogram of a model, and quantiles of its summaries: each is a line for every model and scrape.
METRICS_MAX_BUCKETS = 128
METRICS_MAX_QUANTILES = 32

# Microseconds of a queue delay or timeout (31 years): as nanoseconds added to a clock it still fits in int64.
MAX_DELAY_US = 10**15

# Where requests are served by deadline: how long after it came each counts as due at the latest, so that one that names
# no deadline, or a far one, waits its turn behind those that came before, and not for ever.
ORDER_HORIZON_NS = 10_000_000_000

# Where the server finds the delay of batches itself: nanoseconds that each request must gain by it. Less is eaten up by
# the turn of the loop in which the time is over.
AUTO_DELAY_GAIN_NS = 20_000
# Nanoseconds over which it looks how busy the instances are, at least; 16 executions where these take longer.
AUTO_DELAY_WINDOW_NS = 20_000_000

# Microseconds that a sequence of which nothing waits or runs keeps its slot for, where the config says nothing
# (Triton's default).
SEQUENCE_IDLE_US = 1_000_000
# Sequences that one instance may have at a time: each has a slot, which takes memory whether it is used or not.
MAX_CANDIDATE_SEQUENCES = 2**20
# Letters of a correlation id (Triton's bound).
MAX_SEQUENCE_ID = 128

# Seconds that sequences which began before their model was loaded anew may go on with what was loaded then. Idle ones
# end long before; this is for those that are not, and would keep both in memory.
SEQUENCE_LINGER_S = 600.0

# Elements of an initial state: it is made at load, for the model to begin each sequence with.
MAX_STATE_ELEMENTS = 2**31
# Bytes of a state up to which it is copied out of the outputs of its batch, so that it does not keep those of the
# others; a larger one stays where it is, as copying it would hold the loop up.
STATE_COPY_NBYTES = 1 << 20

# Seconds between two readings of the GPUs: the driver takes the samples that it answers from no faster.
GPU_POLL_MIN_S = 0.1

# -- the process -----------------------------------------------------------------------------------

# Seconds after which a thread that runs Python lets another one have the GIL that waits for it. The event loop waits so
# long, once or twice for each request, beside a Python model that computes: with Python's own 5 ms a light model beside
# a heavy one answers 5 times fewer requests than with this.
GIL_SWITCH_S = 0.0005

# Seconds behind --exit-timeout-secs, and behind a second signal, after which a process is ended whose loop does not do
# so itself: a busy machine gets there late.
STOP_GRACE_S = 1.0
SECOND_SIGNAL_GRACE_S = 0.3

# Seconds between two looks whether a client is left, while a server that stops sees them off.
SEE_OFF_INTERVAL_S = 0.02

# Lines that wait for whoever reads the log; more are dropped and counted. A few MB of ordinary lines.
LOG_QUEUE_LINES = 8192

# Bytes of a file of API keys: some ten thousand keys.
API_KEYS_MAX_NBYTES = 1 << 20

# Seconds between two looks at certificates and keys that may have been replaced.
RENEWAL_S = 1.0

# Of a load request: files; bytes of their paths, and of a name in these, as file systems take them; bytes of the
# config, a hundred times that of a large ensemble.
OVERRIDE_MAX_FILES, OVERRIDE_MAX_PATH_NBYTES, OVERRIDE_MAX_NAME_NBYTES = 1024, 2048, 255
OVERRIDE_CONFIG_MAX_NBYTES = 1 << 20

# Traces that wait to be written or sent, and bytes of tensors in them; more are lost and counted. A trace of
# timestamps takes some 3 KiB.
TRACE_QUEUE = 8192
TRACE_TENSORS_NBYTES = 256 << 20

# Seconds that the end of the process waits for its last lines to be read.
LOG_FLUSH_S = 1.0

# Seconds between two looks at how late the loop is, and between the beginnings of two periods whose worst is shown.
LOOP_LAG_INTERVAL_S = 0.1
LOOP_LAG_PERIOD_S = 15.0

# -- Python models ---------------------------------------------------------------------------------

# Bytes of a tensor below which Python models get and give copies: an array of its own costs less than one over memory
# of others, and leaves that free.
PYTHON_COPY_NBYTES = 1 << 15

# Seconds that a model has to say whether it is ready, as in Triton.
MODEL_READY_TIMEOUT_S = 5.0

# -- padding ---------------------------------------------------------------------------------------

# Bytes of the JSON that says how a model pads, lengths of it, and buckets of one: a request is compared with each.
PADDING_MAX_NBYTES = 1 << 16
PADDING_MAX_LENGTHS = 8
PADDING_MAX_BUCKETS = 64

# Elements of a padded batch, its rows by its lengths, where the config does not say: beyond it one long request beside
# short ones would cost memory out of proportion to what was sent.
PADDING_MAX_ELEMENTS = 1 << 20
