"""The analysis of arrays and tapped networks: radius, bounds, zone. No files, no models."""
