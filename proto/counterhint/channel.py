"""gRPC channels and servers of the contract: one set of limits for both sides."""

from typing import Any

import grpc

from counterhint.credentials import NO_CREDENTIALS, Credentials
from counterhint.v1 import scoring_pb2

SERVICE_NAME = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name
"""The name under which a server's health service speaks of scoring."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message on either side; gRPC's own default for receiving is 4 MiB."""
LARGEST_REPLY = MAX_MESSAGE_BYTES - 1024 * 1024
"""Most bytes of a job's scores, with room for what else a message holds."""
MAX_METADATA_BYTES = 8 * 1024
"""Largest headers of a call, its token among them; beyond it gRPC refuses the call."""

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Find out that a peer is gone even while a long job gives no traffic.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Retries are the client's, by job id and within its deadline.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

SERVER_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Permit the keepalive that clients send; a stricter server answers too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Find out that a client is gone which can no longer say so.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # gRPC refuses headers above the first at random, above the second always: so both are the same.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Of one connection; a client's further calls wait on its side.
    ("grpc.max_concurrent_streams", 1024),
    # Clients connect again now and then, by the certificates of the day; calls under way go on.
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.server_handshake_timeout_ms", 20_000),
    # Two servers on one port would each get half of the calls.
    ("grpc.so_reuseport", 0),
]


def open_channel(address: str, credentials: Credentials = NO_CREDENTIALS) -> grpc.aio.Channel:
    """A channel to `host:port` or `unix:///path`: TLS when the credentials say so.

    The server's certificate must be for the address's host, on a unix socket for `localhost`.

    Raises:
        InputError: the credentials cannot be used, or must not be sent to this address.
    """
    credentials.check(address)
    tls = credentials.tls()
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    options = CHANNEL_OPTIONS
    if address.startswith("unix:"):
        options = [*options, ("grpc.ssl_target_name_override", "localhost")]
    return grpc.aio.secure_channel(address, tls, options=options)
