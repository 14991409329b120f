"""Memory that tensors stand on: leases, host slabs, pinned and device pools, shared memory."""
