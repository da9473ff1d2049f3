"""``asterisk-exporter doctor``: walks the chain from Asterisk to Prometheus, on the PBX.

``finding`` is what a link says, ``chain`` asks each link in turn, ``pbx`` is all that a link may
look at, and each other file has links of one subject: pure functions from what was read to
findings, below the few lines that read it.
"""
