"""Data sets: which clips belong to which part and class, what is missing, and batches of them for training and evaluation.

Imports `lib.run`, `lib.video`, `lib.language`.
"""
