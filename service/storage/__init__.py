"""Stores of bundles: a folder, or a URL and the folder that it is copied to."""

from service.storage.local import DEFAULT_REPOSITORY, BundleRef, BundleStore, Fingerprint, LocalStore, Location

__all__ = ["DEFAULT_REPOSITORY", "BundleRef", "BundleStore", "Fingerprint", "LocalStore", "Location"]
