"""The public test kit: servers, simulated sites, strategies and fault plans."""
