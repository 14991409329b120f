"""Limits of repositories in object storage, with units and reasons."""

from __future__ import annotations

# Seconds for a connection to be made, and without a byte on it: a storage that answers takes less than one. Not for a
# whole object, which takes as long as it is large.
CONNECT_S = 5
READ_S = 30
OBJECT_S = 24 * 3600

# How often a call is made again that failed for no reason of ours (5xx, a lost connection), and for how long in all.
RETRIES = 4
RETRY_S = 60

# Bytes of an object that are fetched as one call, and how many calls are made at once: one connection gives a tenth of
# what a machine's network can take, and no model waits for its largest file alone.
PART_NBYTES = 32 << 20
PARALLEL = 8
# Bytes that a call holds in memory before they are written.
CHUNK_NBYTES = 1 << 20

# Objects of one model: what a training run leaves by mistake is found before it fills the disk.
MAX_OBJECTS = 100_000

# How often a model is looked at again that changed while it was read.
CHANGES = 3

# Seconds for which credentials from a file are used before it is read again: what renews them keeps the old ones valid
# for minutes.
CREDENTIALS_S = 60

# Bytes of a file of credentials.
CREDENTIALS_MAX_NBYTES = 1 << 20
