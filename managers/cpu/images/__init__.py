"""Images of Docker sandboxes: found, pulled, remembered and evicted on one node.

`store` is what the launcher talks to. Pure are `reference`, `progress`, `refusals`, `resolutions`
and `eviction`; `engine` asks the Docker engine what takes as long as a registry, everything else
that the engine is asked stands in `sandbox.docker_client`.
"""
