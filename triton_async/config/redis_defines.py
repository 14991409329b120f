"""Limits of a response cache in Redis, with units and reasons."""

from __future__ import annotations

# Of an answer that a Redis server keeps, with its head: checked on the loop, byte by byte, before it is believed.
REDIS_ENTRY_NBYTES = 1 << 20

# Answers that are on their way into Redis, and bytes of them; what comes beyond is not kept, and counted.
REDIS_INSERTS = 1024
REDIS_INSERT_NBYTES = 32 << 20

# Keys that one command asks Redis for: with REDIS_ENTRY_NBYTES each, what an exchange may bring at once. And bytes of
# answers that one command takes there.
REDIS_KEYS_PER_EXCHANGE = 32
REDIS_EXCHANGE_NBYTES = 4 << 20

# Milliseconds that a request waits for a free connection, and for Redis to answer, where the options do not say; and
# the most that they may say. An answer takes one on a network that is well; models take tens.
REDIS_TIMEOUT_MS = 100
REDIS_MAX_TIMEOUT_MS = 60_000

# Connections to Redis that --cache-config may ask for: each carries many requests at once.
REDIS_MAX_POOL_SIZE = 64

# Seconds before Redis is tried again behind a failure; they double up to the second with each one that follows.
REDIS_RETRY_MIN_S = 0.1
REDIS_RETRY_MAX_S = 10.0

# Seconds between two looks at a connection that has nothing to do: Redis, and what is between, may close it.
REDIS_LOOK_S = 5.0
