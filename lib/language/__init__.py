"""Texts: vocabularies of actions, prompt templates, and a language model that writes descriptions.

Imports `lib.run`.
"""
