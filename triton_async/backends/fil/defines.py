"""Limits of tree ensembles, with their units and reasons."""

# Tree ensembles. Features: eight expanded rows have up to 32 values for each. Splits on a way to a leaf: each level is
# laid out in one step. Nodes, and values of leaves: indexes are 32 bits wide, and 16 bytes of each stay in memory.
# Splits on a way when contributions are asked for: their weights are not accurate beyond, and each is a call in C.
FOREST_MAX_FEATURES = 1 << 20
FOREST_MAX_DEPTH = 4096
FOREST_MAX_NODES = 1 << 28
FOREST_MAX_SHAP_DEPTH = 64

# Values of the contributions to one row: each instance keeps a double for each.
FOREST_MAX_SHAP_VALUES = 1 << 24

# Containers within each other in a UBJSON file.
UBJSON_MAX_DEPTH = 32

# Bytes of memory and seconds for the process that reads what treelite or a pickle knows: reading needs about ten times
# the file.
CONVERSION_MEMORY_NBYTES = 4 << 30
CONVERSION_MEMORY_FACTOR = 64
CONVERSION_TIMEOUT_S = 600.0

# max_batch_size of a forest whose config says none: rows cost microseconds, and a request of thousands is usual.
FOREST_BATCH_SIZE = 32768
