"""Objectives: the losses of D and G, as functions of D's outputs.

To add an objective: write its losses as pure functions that cite their equations. If D outputs one
score per sample, `ScalarObjective` makes an objective of them; otherwise write a class with the
methods of `Objective`. Its settings belong in `configs`, where `register` names it. An objective
outside of this program needs a file with both: see `--plugin`, and examples/.
"""
