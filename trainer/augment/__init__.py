"""Augmentation of D's input: ADA's transforms, DiffAugment's policies, and their probability.

To add a transform: write it as a function of its draws in the module of its group, with a formula
in float64 for its test, and give its draws a `Purpose`. To add an augmentation: add its settings to
`configs`, where `register` names it.
"""
