"""The gateway: scoring, jobs and views over HTTP, for people and programs without gRPC."""
