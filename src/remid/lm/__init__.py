"""The only room that knows tokens: where models come from, chat templates, scoring and generation.

Importing this package is cheap; torch and transformers load with the module that needs them.
"""
