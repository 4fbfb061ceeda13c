"""What `make` and the Snakefile run: the environment, the plan of a suite, its jobs, JupyterLab, upgrades.

Imports `lib`; nothing in `lib` imports it.
"""
