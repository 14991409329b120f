# Nothing here is called from C.
