"""Managers make grants real: one folder or file per kind of resource.

`base` holds what they share, `errors` what they raise, `config` their settings; `cpu` owns cores,
memory and sandboxes, `quota` API quotas, `fake` is a complete manager for tests. Managers do not
import each other and know nothing of gRPC.
"""
