"""Words: vocabularies of actions with their descriptions, prompt templates, and a language model that writes descriptions.

Imports `lib.run`.
"""
