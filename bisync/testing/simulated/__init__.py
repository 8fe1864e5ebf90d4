"""The commands of a simulated server, a module for each type of value. `bisync.testing.site` puts them together."""
