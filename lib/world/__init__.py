"""Rendered worlds: people who move, and small CLIPs pretrained on stills of them.

Imports `lib.run` and `lib.video`.
"""
