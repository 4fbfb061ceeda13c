"""The embedded world: rendered people who move, and a small CLIP pretrained on stills of them.

Imports `lib.run` and `lib.video`.
"""
