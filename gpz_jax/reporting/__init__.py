"""From run folders to tables and figures; needs no device."""
