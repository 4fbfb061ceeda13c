"""Files of video: which frames they hold, which of them are decoded, which views are cut from these.

Imports nothing of this project but errors of `lib.run`: its functions serve any other project.
"""
