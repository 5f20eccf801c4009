"""The papers' 2-D experiments: data, methods, measures, and training with the trainer's step code.

The package itself imports neither torch nor scipy, so that a command can list methods and data
quickly; `data`, `measures`, `experiment` and `results` are imported by name.
"""

from realness.trainer.toy.methods import METHODS, SETTINGS, Method, Setting, method_config
from realness.trainer.toy.names import NETWORKS_OF, DataName, Networks

__all__ = [
    "METHODS",
    "NETWORKS_OF",
    "SETTINGS",
    "DataName",
    "Method",
    "Networks",
    "Setting",
    "method_config",
]
