"""Many machines: the application on Ray Serve. Nothing else of the service imports this, or Ray."""
