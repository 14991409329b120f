# What an engine asks of the CUDA driver between its own calls. Any thread whose device is current, the driver loaded.
