"""Sans-IO codecs of the v2 protocol: bytes in, requests out; responses in, bytes out."""
