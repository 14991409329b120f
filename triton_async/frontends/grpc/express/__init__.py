"""The gRPC express lane: HTTP/2 by nghttp2, ModelInfer and ModelStreamInfer without tasks or protobuf objects."""
