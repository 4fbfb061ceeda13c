"""Video files: which frames they contain, how these are decoded, and which views are cut from them.

Imports nothing from other rooms, so it can be used in any project.
"""
