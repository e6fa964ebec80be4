"""Metrics, logs and spans."""

import os

from service.observability.multiprocess import FOLDER, PREFIX

# prometheus_client reads these when it is imported, which is later. Workers have a folder from their parent. That of
# another program may be missing or full, and its metrics are not the service's.
if PREFIX not in os.environ.get(FOLDER, ""):
    os.environ.pop(FOLDER, None)
os.environ.pop(FOLDER.lower(), None)
