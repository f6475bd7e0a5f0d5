"""What leaves the laboratory: both halves of a cut network as files."""
