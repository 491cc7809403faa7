"""Whether the teacher scores jobs, as gRPC's health service, the metrics and HTTP tell it."""

from grpc_health.v1 import health, health_pb2

from counterhint.channel import SERVICE_NAME
from teacher_server import metrics


class Readiness:
    """Not ready until `set`, and never again after `end`."""

    def __init__(self) -> None:
        self.health = health.aio.HealthServicer()
        """The gRPC service that tells it, for the server as a whole and for scoring."""
        self.ready = False
        metrics.READY.set_function(lambda: self.ready)

    async def set(self, ready: bool) -> None:
        """Tells everybody."""
        self.ready = ready
        states = health_pb2.HealthCheckResponse
        for name in ("", SERVICE_NAME):
            await self.health.set(name, states.SERVING if ready else states.NOT_SERVING)

    async def end(self) -> None:
        """Not ready, for good."""
        self.ready = False
        await self.health.enter_graceful_shutdown()
