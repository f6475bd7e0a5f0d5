"""Two training loops, the run folder they write, and the mesh they run on."""
