"""The experiment: does the Prob-Mask help, how much, and can the gap to the manual mask be closed?"""

__all__ = ["analysis", "collecting", "config", "report", "running"]
