"""One run: its parameters, files, records, devices and processes.

The lowest room: imports nothing of this project.
"""
