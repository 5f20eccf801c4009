"""Generators, discriminators and their layers.

To add a network: write its module here, and its settings in `configs`, where `register` names it. A
network outside of this program needs a file with both: see `--plugin`, and examples/.
"""
