"""Data sets: which clips belong to which part and class, what is missing, and batches of views of them.

Imports `lib.run`, `lib.video`, `lib.language`.
"""
