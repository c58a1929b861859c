"""One HTTP host for all that a mesh serves: ASGI applications are mounted in it, and share its limits.

Needs the extra ``dimesh[http]`` (uvicorn). No module here imports uvicorn before a host is started.
"""
