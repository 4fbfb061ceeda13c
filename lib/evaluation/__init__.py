"""What a model can do: features, zero-shot classification, linear probe, k-NN, and a model applied to one's own videos.

Imports the method, and the rooms below it.
"""
