"""Limits of response caches, repository agents, loads and unloads, each with its unit and the reason for its value."""

from __future__ import annotations

# Bytes of inputs that are made a key of, and of an answer that is kept: a millisecond of the loop's time for each.
CACHE_KEY_NBYTES = 1 << 20
CACHE_ENTRY_NBYTES = 8 << 20

# Bytes of a model's files, without a response cache of its own, that are read for the keys of ensembles that ask it:
# some two seconds of a load. Answers of ensembles over larger ones are kept for this process alone.
CACHE_IDENTITY_NBYTES = 2 << 30

# Of a response cache that is a shared library: threads that ask it; look-ups and insertions that wait for them, beyond
# which there are none; and how long a request waits for an answer before it is run.
NATIVE_CACHE_THREADS = 4
NATIVE_CACHE_PENDING = 4096
NATIVE_CACHE_WAIT_S = 0.2

# Seconds that the end of a server waits for a repository agent that is still being initialised.
AGENT_END_S = 5.0

# Seconds until an unload says what it waits for, and between two looks at it; and between two looks at a model that is
# to give up what it has.
UNLOAD_TOLD_S = 10.0
UNLOAD_GIVE_UP_S = 1.0

# How much nicer (nice(2)) threads are that read and write long bodies. On a processor that they share with the loop, it
# would wait for the system's next tick (4 ms) behind each of its steps; so it waits a fourth as often.
BODY_NICE = 10

# Seconds after which a load is begun beside one that goes on: small models take 1 to 2 ms each, most of it Python's,
# and four at a time took the GIL from each other 100 times for each. What takes longer is the engine's, or a disk's.
LOADS_APART_S = 0.003
