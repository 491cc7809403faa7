"""The stateless teacher server: scores responses under several contexts over gRPC."""
