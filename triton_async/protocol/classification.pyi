# Nothing of this module is visible from Python; it is used through http_codec and grpc_codec.
