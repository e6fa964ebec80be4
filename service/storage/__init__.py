"""Where bundles lie: a folder, or a URL and the folder that it is copied to."""

from service.storage.local import DEFAULT_REPOSITORY, Address, Folder, Location, State, Storage

__all__ = [
    "DEFAULT_REPOSITORY",
    "Address",
    "Folder",
    "Location",
    "State",
    "Storage",
]
