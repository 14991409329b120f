"""The server inside another program, for Python: `triton_async.Server` on a loop that is there, `SyncServer` for those
who have none. See docs/in-process.md.
"""
