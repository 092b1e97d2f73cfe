"""The motivating diagnostic: do different batches of the task put different references at risk?"""

from dualselect.diagnostics.strategies import STRATEGIES, Candidates, Strategy, strategy

__all__ = ["STRATEGIES", "Candidates", "Strategy", "strategy"]
