"""Many runs: suites, their results with intervals, tables, figures, the report.

Imports every other room.
"""
