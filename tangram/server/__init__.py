"""The server: dispatcher (middle ring) and the gRPC, HTTP and metrics edges (outer ring)."""
