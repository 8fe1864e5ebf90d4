"""bisync keeps two Redis deployments equal while clients write to both."""

__version__ = "0.1.0"
