"""tangram.v1.Cluster: what the pool looks like, once or as it changes."""

from __future__ import annotations

import asyncio

from ..errors import InvalidRequest
from ..limits import PREFETCH_IMAGES_MAX
from ..v1 import cluster_pb2 as pb
from ..v1.cluster_pb2_grpc import ClusterServicer
from . import validate
from .actions_service import wait_reason
from .answers import image_message, status_message
from .dispatcher import Dispatcher
from .node_images import NodeImages
from .service import Context, method

WATCH_INTERVAL_S = 1.0
WATCH_INTERVAL_S_MIN = 0.1
"""A status walks all live actions: more often than ten times a second would be felt."""


class ClusterService(ClusterServicer):
    """Stateless: all it knows is the dispatcher, and the images of the nodes."""

    def __init__(self, dispatcher: Dispatcher, images: NodeImages) -> None:
        self._dispatcher = dispatcher
        self._images = images

    @method
    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return self._status()

    @method
    async def Watch(self, request: pb.WatchRequest, context: Context) -> None:
        interval_s = validate.seconds_or_zero(request.interval_s, "interval_s") or WATCH_INTERVAL_S
        validate.at_least(interval_s, "interval_s", WATCH_INTERVAL_S_MIN)
        while not self._dispatcher.draining:
            await context.write(self._status())
            await asyncio.sleep(interval_s)

    @method
    async def Images(self, request: pb.ImagesRequest, context: Context) -> pb.ImagesResponse:
        found = await self._images.images()
        return pb.ImagesResponse(images=[image_message(node, info) for node, info in found])

    @method
    async def Prefetch(self, request: pb.PrefetchRequest, context: Context) -> pb.PrefetchResponse:
        task = validate.task_name(request.task)
        if len(request.images) > PREFETCH_IMAGES_MAX:
            raise InvalidRequest(
                f"images has {len(request.images)} names, the limit is {PREFETCH_IMAGES_MAX}: call"
                " several times",
                field="images",
            )
        names = [validate.image(n, f"images[{i}]") for i, n in enumerate(request.images)]
        if "" in names:
            field = f"images[{names.index('')}]"
            raise InvalidRequest(f"{field} is empty: name an image", field=field)
        found = await self._images.prefetch(task, names)
        return pb.PrefetchResponse(images=[image_message(node, info) for node, info in found])

    def _status(self) -> pb.StatusResponse:
        status = self._dispatcher.status()
        reasons = {r.id: wait_reason(self._dispatcher, r) for r in status.busiest}
        return status_message(status, self._dispatcher.now(), reasons)
