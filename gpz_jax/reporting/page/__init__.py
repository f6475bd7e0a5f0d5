"""The report: what is known of runs as one HTML page that stands by itself.

``contents`` is what it says, ``render`` makes the page; needs no device and no file of a run.
"""
